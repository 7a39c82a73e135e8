"""The spatial prior whose stem reads a trunk's tokens through deformable attention."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapters.necks.checks import DEFAULT_OUT_STRIDES, check_channels, check_maps, check_numbers
from adapters.necks.conv_stem import FIRST_STRIDE, ConvStem
from adapters.necks.extractor import Extractor
from adapters.necks.norms import make_norm
from adapters.necks.rescale import make_conv
from adapters.necks.spatial_prior import SpatialPrior, cut_alike


class ExtractPrior(SpatialPrior):
    """``mode='extract'``: cells of strides 8, 16 and 32 that read the tokens of one block after the other.

    It is ViT-Adapter (arXiv 2205.08534) without its injectors, as the adapter of DINOv3 (arXiv 2508.10104) has it: the
    trunk computes as if it were alone, and may be frozen. The map of stride 4 is the stem's and a doubling of what
    stride 8 has become; at the end each level adds a map of the trunk, resized. With ``norm='SyncBN'``,
    ``drop_path_rate=0.3`` and, in the adapter, ``out_norm=True``, it computes what DINOv3's ``DINOv3_Adapter`` does at
    sizes of whole 32s; :mod:`adapters.necks.published_names` has its names. It differs where that cannot go: cells
    are placed and maps resized by the ratio of the strides, also where the image is no multiple of them; the network's
    convolution runs on each level's own size; the trunk runs in the dtype that the caller chose.

    Args:
        in_channels: channels of each of the trunk's maps.
        in_stride: image pixels per cell; for a ViT, its patch size.
        image_channels: channels of the image.
        with_cp: compute the extractors anew in the backward pass, instead of keeping what they need.
        out_channels: channels of the cells and of every level; None for those of the trunk's last map.
        out_strides: strides of the levels, increasing, powers of two from 4; 4 only with 8.
        stem_channels: channels of the stem at stride 4; 2 and 4 times as many at 8 and beyond.
        norm: of the stem's convolutions and of the levels: ``'LN'``, ``'GN'``, ``'BN'`` or ``'SyncBN'``.
        num_heads: heads of the attention.
        num_points: points that each head reads.
        value_ratio: channels of the attention's values for each channel of the cells.
        ffn_ratio: hidden channels of the network after the attention for each channel of the cells; 0 for no network.
        drop_path_rate: rate of the stochastic depth of that network.
        extra_extractors: how many more times the cells read the last block.
        add_taps: whether each level adds a map of the trunk at the end.
        use_mmcv: whether mmcv's compiled attention is used on a GPU that it is compiled for.

    Raises:
        ValueError: a stride, a number of channels, the norm or another number is not allowed.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int = 16,
        image_channels: int = 3,
        with_cp: bool = False,
        out_channels: int | None = None,
        out_strides: Sequence[int] = DEFAULT_OUT_STRIDES,
        stem_channels: int = 64,
        norm: str = "LN",
        num_heads: int = 16,
        num_points: int = 4,
        value_ratio: float = 0.5,
        ffn_ratio: float = 0.25,
        drop_path_rate: float = 0.0,
        extra_extractors: int = 2,
        add_taps: bool = True,
        use_mmcv: bool = False,
    ) -> None:
        super().__init__(in_channels, in_stride, out_channels, out_strides)
        has_first = self.out_strides[0] == FIRST_STRIDE
        if has_first and self.out_strides[1:2] != (2 * FIRST_STRIDE,):
            raise ValueError(
                f"out_strides={self.out_strides} cannot be made: mode='extract' doubles stride {2 * FIRST_STRIDE} for "
                f"stride {FIRST_STRIDE}, so add {2 * FIRST_STRIDE} or leave {FIRST_STRIDE} out."
            )
        check_channels("stem_channels, num_heads and num_points", [stem_channels, num_heads, num_points])
        check_numbers(value_ratio=value_ratio, ffn_ratio=ffn_ratio)
        check_numbers(1, drop_path_rate=drop_path_rate)
        if not isinstance(extra_extractors, int) or extra_extractors < 0:
            raise ValueError(f"extra_extractors={extra_extractors!r} must be an integer of at least 0.")
        channels = self.out_channels
        self.with_cp = with_cp
        self.add_taps = add_taps
        self.level_embed = nn.Parameter(torch.randn(len(self.out_strides) - has_first, channels))
        self.stem = ConvStem(
            image_channels,
            stem_channels,
            self.out_strides,
            norm,
            entry_convs=3,
            activation=nn.ReLU(inplace=True),
            activated=True,
        )
        self.projections = nn.ModuleList(nn.Conv2d(level.channels, channels, 1) for level in self.stem.levels)
        #: The map that each extractor reads.
        self.reads = [*range(len(self.in_channels)), *[len(self.in_channels) - 1] * extra_extractors]
        self.extractors = nn.ModuleList(
            Extractor(
                channels,
                self.in_channels[tap],
                num_heads,
                num_points,
                value_ratio,
                ffn_ratio,
                drop_path_rate,
                use_mmcv,
            )
            for tap in self.reads
        )
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2) if has_first else None
        for conv in [*self.projections, *([self.up] if self.up is not None else [])]:
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (channels * math.prod(conv.kernel_size))))
            nn.init.zeros_(conv.bias)
        #: The last map of each level goes through a 1x1 convolution where it has other channels.
        self.tap_convs = nn.ModuleList(
            nn.Identity()
            if self.in_channels[taps[-1]] == channels
            else make_conv(self.in_channels[taps[-1]], channels, 1, bias=True)
            for taps in (self.taps if add_taps else ())
        )
        self.norms = nn.ModuleList(make_norm(norm, channels) for _ in self.out_strides)

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> tuple[Tensor, ...]:
        """Turn maps ``(B, C_i, h, w)`` of stride ``in_stride``, and the image ``(B, C, H, W)``, into the levels.

        Returns:
            ``(B, out_channels, ceil(H / s_i), ceil(W / s_i))`` for each of ``levels``; less at the right and lower
            border where the maps end before the image does.

        Raises:
            ValueError: the maps have other channels than ``in_channels``.
        """
        check_maps(maps, self.in_channels)
        details = [conv(detail) for conv, detail in zip(self.projections, self.stem(image), strict=True)]
        outputs = self._extract(maps, details if self.up is None else details[1:])
        if self.up is not None:
            doubled, detail = cut_alike(self.up(outputs[0]), details[0])
            outputs.insert(0, doubled + detail)
        if self.add_taps:
            for index, (taps, conv, resample) in enumerate(zip(self.taps, self.tap_convs, self.resamples, strict=True)):
                output, tap = cut_alike(outputs[index], resample(conv(maps[taps[-1]])))
                outputs[index] = output + tap
        return tuple(norm(output) for norm, output in zip(self.norms, outputs, strict=True))

    def _extract(self, maps: Sequence[Tensor], details: Sequence[Tensor]) -> list[Tensor]:
        """Let the cells of the details ``(B, C, h_i, w_i)``, one for each embedding, read all maps; same shapes."""
        sizes = [(detail.shape[-2], detail.shape[-1]) for detail in details]
        strides = self.out_strides[-len(details) :]
        places = torch.cat([
            _centres(size, stride / self.in_stride, details[0].device)
            for size, stride in zip(sizes, strides, strict=True)
        ])  # fmt: skip
        cells = torch.cat(
            [
                detail.flatten(2).transpose(1, 2) + embedding
                for detail, embedding in zip(details, self.level_embed, strict=True)
            ],
            dim=1,
        )
        for extractor, tap in zip(self.extractors, self.reads, strict=True):
            if self.with_cp and torch.is_grad_enabled():
                cells = checkpoint(extractor, cells, sizes, places, maps[tap], use_reentrant=False)
            else:
                cells = extractor(cells, sizes, places, maps[tap])
        parts = cells.split([height * width for height, width in sizes], dim=1)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def _centres(size: tuple[int, int], scale: float, device: torch.device) -> Tensor:
    """Place the centres of a map's cells, ``(h * w, 2)`` with x first, in units of ``1 / scale`` cells."""
    y, x = (torch.arange(side, device=device, dtype=torch.float32).add(0.5).mul(scale) for side in size)
    return torch.stack((x.expand(size[0], -1), y.unsqueeze(1).expand(-1, size[1])), -1).flatten(0, 1)
