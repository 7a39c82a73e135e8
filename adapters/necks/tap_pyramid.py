"""The tap pyramid: each level from a block of its own of a model of one stride; inside an adapter, or as a neck."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from adapters.levels import Level, spread_blocks
from adapters.necks.checks import DEFAULT_OUT_STRIDES, check_channels, check_maps
from adapters.necks.rescale import check_strides, make_conv, make_resample, make_rescaling
from adapters.registry import register_model


@register_model
class TapPyramid(nn.Module):
    """Each level from a map of its own, one block's per stride, as mmseg feeds UPerNet from a ViT.

    The maps go to the strides in their order, the earliest block's to the finest; doublings keep the
    channels. Maps whose stride is no power of two away from the levels' (patch 14) are first resampled to the
    nearest stride that is (16).

    Args:
        in_channels: channels of the maps: one number for all, or one for each.
        in_stride: image pixels per cell, the same for all maps; for a ViT, its patch size.
        out_channels: channels of every level, reached by a 1x1 conv before the rescaling, where cells are
            fewer. None keeps the channels of the maps.
        out_strides: strides of the levels, increasing, powers of two apart.

    Raises:
        ValueError: a stride or a number of channels is not allowed, or there is not one map for each stride.
    """

    #: Needs the trunk's maps alone.
    sees_image: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int = 16,
        out_channels: int | None = None,
        out_strides: Sequence[int] = DEFAULT_OUT_STRIDES,
    ) -> None:
        super().__init__()
        self.out_strides = check_strides(in_stride, out_strides)
        self.in_channels = check_channels("in_channels", in_channels)
        if isinstance(in_channels, int):
            self.in_channels *= self.wanted_maps
        self._check_count(len(self.in_channels))
        self.out_channels = self.in_channels
        if out_channels is not None:
            self.out_channels = check_channels("out_channels", [out_channels]) * self.wanted_maps
        self.stages = nn.ModuleList()
        for channels, level in zip(self.in_channels, self.levels, strict=True):
            projection = [] if out_channels is None else [make_conv(channels, level.channels, 1, bias=True)]
            resample, stride = make_resample(in_stride, self.out_strides)
            rescaling, _ = make_rescaling(level.channels, stride, level.stride, halve=False, norm=True)
            self.stages.append(nn.Sequential(*projection, resample, *rescaling))

    @property
    def wanted_maps(self) -> int:
        """The number of maps that ``forward`` takes."""
        return len(self.out_strides)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Channels and stride of each map that ``forward`` returns."""
        return tuple(Level(*level) for level in zip(self.out_channels, self.out_strides, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map ``(B, C_i, h, w)`` of stride ``in_stride`` per level, to one map for each of ``levels``.

        Raises:
            ValueError: there is not one map for each level, or one has other channels than ``in_channels``.
        """
        if not isinstance(maps, Tensor):
            self._check_count(len(maps))
        check_maps(maps, self.in_channels)
        return tuple(stage(x).contiguous() for stage, x in zip(self.stages, maps, strict=True))

    def _check_count(self, count: int) -> None:
        wanted = self.wanted_maps
        if count != wanted:
            depth = max(12, wanted)  # of an example that is deep enough
            out_indices = spread_blocks(wanted, depth)
            raise ValueError(
                f"TapPyramid takes one map for each of out_strides={self.out_strides}, {wanted} in all, but "
                f"got {count}. Ask the backbone for {wanted} blocks, such as out_indices={out_indices} of a "
                f"model with {depth}, or give as many out_strides as there are maps."
            )
