"""The spatial prior: a convolutional stem for what is smaller than a trunk's patches.

A plain ViT sees an image in patches of 14 or 16 pixels, and what is smaller than a patch is lost in it. A spatial prior
reads the image a second time, at strides of 4 and more, and joins what it finds with the maps of the trunk's blocks. It
has two modes, :mod:`adapters.necks.concat_prior` and :mod:`adapters.necks.extract_prior`.

It lives inside an adapter, ``pyramid=dict(type="SpatialPrior", mode="concat")``, and is no neck of mmdet or mmseg: they
hand a neck the maps of the backbone, and never the image.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from adapters.levels import Level
from adapters.necks.checks import check_channels
from adapters.necks.conv_stem import FIRST_STRIDE
from adapters.necks.rescale import Resample, check_strides, is_power_of_two_apart


class SpatialPrior(nn.Module):
    """The part that both modes have: the levels, and which of the trunk's maps goes to which of them.

    Args:
        in_channels: channels of each of the trunk's maps, any number of them.
        in_stride: image pixels per cell, the same for all; for a ViT, its patch size.
        out_channels: channels of every level; None for those of the trunk's last map.
        out_strides: strides of the levels, increasing, powers of two from 4.

    Raises:
        ValueError: a stride or a number of channels is not allowed.
    """

    #: Asks the adapter for the image.
    sees_image: ClassVar[bool] = True

    def __init__(
        self, in_channels: int | Sequence[int], in_stride: int, out_channels: int | None, out_strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.out_strides = check_strides(in_stride, out_strides)
        if not is_power_of_two_apart(self.out_strides[0], FIRST_STRIDE) or self.out_strides[0] < FIRST_STRIDE:
            raise ValueError(
                f"out_strides={self.out_strides} cannot be made by halving an image: a SpatialPrior has strides "
                f"{FIRST_STRIDE}, {2 * FIRST_STRIDE}, {4 * FIRST_STRIDE} and so on."
            )
        self.in_channels = check_channels("in_channels", in_channels)
        (self.out_channels,) = check_channels(
            "out_channels", [self.in_channels[-1] if out_channels is None else out_channels]
        )
        self.in_stride = in_stride
        #: The trunk's maps of each level.
        self.taps = split_taps(len(self.in_channels), len(self.out_strides))
        self.resamples = nn.ModuleList(
            nn.Identity() if stride == in_stride else Resample(in_stride, stride) for stride in self.out_strides
        )

    @property
    def levels(self) -> tuple[Level, ...]:
        """Channels and stride of each map that ``forward`` returns."""
        return tuple(Level(self.out_channels, stride) for stride in self.out_strides)


def split_taps(maps: int, levels: int) -> list[range]:
    """Deal the maps of a trunk out to the levels, in their order and evenly.

    >>> split_taps(1, 3), split_taps(3, 2)
    ([range(0, 1), range(0, 1), range(0, 1)], [range(0, 1), range(1, 3)])
    """
    starts = [level * maps // levels for level in range(levels + 1)]
    return [range(start, max(stop, start + 1)) for start, stop in pairwise(starts)]


def cut_alike(*maps: Tensor) -> tuple[Tensor, ...]:
    """Cut maps ``(B, C_i, h_i, w_i)``, whose sizes differ by what some overhang right and below, to the smallest."""
    height = min(feature_map.shape[-2] for feature_map in maps)
    width = min(feature_map.shape[-1] for feature_map in maps)
    return tuple(feature_map[..., :height, :width] for feature_map in maps)
