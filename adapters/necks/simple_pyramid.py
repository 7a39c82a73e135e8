"""The simple feature pyramid: all levels from the last map of a model of one stride.

It lives inside an adapter (``pyramid=dict(type="SimpleFeaturePyramid", out_channels=256)``, where the adapter fills in
``in_channels`` and ``in_stride``), or stands in an mmdet or mmseg config as a neck, alone or before another:
``neck=[dict(type="SimpleFeaturePyramid", in_channels=768), dict(type="FPN", ...)]``.

A map of ``h x w`` cells of stride ``s`` covers ``h * s`` by ``w * s`` pixels, and each level covers at least that.
Inside an adapter a crop follows, to ``ceil(H / stride)`` cells for the image's own H; a neck does not know H, and its
levels are those of the padded image.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from adapters.levels import Level
from adapters.necks.checks import DEFAULT_OUT_STRIDES, check_channels, check_maps
from adapters.necks.rescale import MapNorm, check_strides, make_conv, make_resample, make_rescaling
from adapters.registry import register_model


@register_model
class SimpleFeaturePyramid(nn.Module):
    """All levels from the last map: the simple feature pyramid of ViTDet (arXiv 2203.16527, section 3).

    Each level rescales the map to its stride (doublings halve the channels) and ends with a 1x1 and a 3x3
    conv, each with a norm. A map whose stride is no power of two away from the levels' (patch 14) is first
    resampled to the nearest stride that is (16).

    Args:
        in_channels: channels of the map, or those of all maps that come in, of which the last is used.
        in_stride: image pixels per cell of the map; for a ViT, its patch size.
        out_channels: channels of every level.
        out_strides: strides of the levels, increasing, powers of two apart.
        extra_level: add a level at twice the last stride, which keeps every second cell of the last level,
            as detectron2's LastLevelMaxPool does for the proposals of large objects.
        norm: LayerNorm2d between two doublings and after each conv; without it the convs have a bias instead.

    Raises:
        ValueError: a stride or a number of channels is not allowed.
    """

    #: Needs the trunk's maps alone.
    sees_image: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int = 16,
        out_channels: int = 256,
        out_strides: Sequence[int] = DEFAULT_OUT_STRIDES,
        extra_level: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.out_strides = check_strides(in_stride, out_strides)
        self.in_channels = check_channels("in_channels", in_channels)[-1]
        (self.out_channels,) = check_channels("out_channels", [out_channels])
        self.extra_level = extra_level
        self.resample, stride = make_resample(in_stride, self.out_strides)
        self.stages = nn.ModuleList()
        for out_stride in self.out_strides:
            layers, channels = make_rescaling(self.in_channels, stride, out_stride, halve=True, norm=norm)
            for kernel_size in (1, 3):
                layers.append(make_conv(channels, out_channels, kernel_size, bias=not norm))
                channels = out_channels
                if norm:
                    layers.append(MapNorm(channels))
            self.stages.append(nn.Sequential(*layers))

    @property
    def wanted_maps(self) -> int:
        """The number of maps that ``forward`` uses."""
        return 1

    @property
    def levels(self) -> tuple[Level, ...]:
        """Channels and stride of each map that ``forward`` returns."""
        extra = (2 * self.out_strides[-1],) if self.extra_level else ()
        return tuple(Level(self.out_channels, stride) for stride in self.out_strides + extra)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``(B, C, h, w)``, the last one of stride ``in_stride``, to one map for each of ``levels``.

        Raises:
            ValueError: there is no map, or the last one has other channels than ``in_channels``.
        """
        check_maps(maps, (self.in_channels,))
        x = self.resample(maps[-1])
        outputs = [stage(x).contiguous() for stage in self.stages]
        if self.extra_level:
            outputs.append(outputs[-1][..., ::2, ::2].contiguous())
        return tuple(outputs)
