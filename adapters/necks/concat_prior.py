"""The spatial prior that joins a light stem and a trunk's maps by concatenation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapters.necks.checks import DEFAULT_OUT_STRIDES, check_channels, check_maps
from adapters.necks.conv_stem import ConvStem
from adapters.necks.norms import make_norm
from adapters.necks.rescale import make_conv
from adapters.necks.spatial_prior import SpatialPrior, cut_alike


class ConcatPrior(SpatialPrior):
    """``mode='concat'``: each level from a map of the trunk, resized, beside one of the stem.

    It is the spatial tuning adapter of DEIMv2 (arXiv 2509.20787, section 3.1) for any trunk. With
    ``out_strides=(8, 16, 32)``, ``norm='SyncBN'`` and as many maps as levels, or one, it computes what DEIMv2's
    ``DINOv3STAs`` does; :mod:`adapters.necks.published_names` has its names. It differs where DEIMv2 cannot go: a map
    is resized by the ratio of the strides, also where the image is no multiple of them, and several maps of a level are
    concatenated.

    Args:
        in_channels: channels of each of the trunk's maps.
        in_stride: image pixels per cell; for a ViT, its patch size.
        image_channels: channels of the image.
        out_channels: channels of every level; None for those of the trunk's last map.
        out_strides: strides of the levels, increasing, powers of two from 4.
        stem_channels: channels of the stem at stride 4; 2 and 4 times as many at 8 and beyond.
        norm: of the stem's convolutions and of the levels: ``'LN'``, ``'GN'``, ``'BN'`` or ``'SyncBN'``.

    Raises:
        ValueError: a stride, a number of channels or the norm is not allowed.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int = 16,
        image_channels: int = 3,
        out_channels: int | None = None,
        out_strides: Sequence[int] = DEFAULT_OUT_STRIDES,
        stem_channels: int = 16,
        norm: str = "LN",
    ) -> None:
        super().__init__(in_channels, in_stride, out_channels, out_strides)
        check_channels("stem_channels", [stem_channels])
        self.stem = ConvStem(
            image_channels,
            stem_channels,
            self.out_strides,
            norm,
            entry_convs=1,
            activation=nn.GELU(),
            activated=False,
        )
        self.convs = nn.ModuleList()
        for taps, level in zip(self.taps, self.stem.levels, strict=True):
            channels = sum(self.in_channels[tap] for tap in taps) + level.channels
            self.convs.append(make_conv(channels, self.out_channels, 1, bias=False))
        self.norms = nn.ModuleList(make_norm(norm, self.out_channels) for _ in self.out_strides)

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> tuple[Tensor, ...]:
        """Turn maps ``(B, C_i, h, w)`` of stride ``in_stride``, and the image ``(B, C, H, W)``, into the levels.

        Returns:
            ``(B, out_channels, ceil(H / s_i), ceil(W / s_i))`` for each of ``levels``; less at the right and lower
            border where the maps end before the image does.

        Raises:
            ValueError: the maps have other channels than ``in_channels``.
        """
        check_maps(maps, self.in_channels)
        outputs = []
        for detail, taps, resample, conv, norm in zip(
            self.stem(image), self.taps, self.resamples, self.convs, self.norms, strict=True
        ):
            joined = cut_alike(*(resample(maps[tap]) for tap in taps), detail)
            outputs.append(norm(conv(torch.cat(joined, dim=1))))
        return tuple(outputs)
