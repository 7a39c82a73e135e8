"""Taking a feature map from one stride to another: exact resampling, learned upsampling, pooling.

Convs start with unit gain: zero bias and a normal weight of variance 1 / (inputs that reach one output), so
that levels of different depth start on the same scale. The norm is timm's ``LayerNorm2d`` (over channels, at
each cell), so nothing depends on the batch size or on how many devices train, and no SyncBN is needed.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from adapters.padding import count_cells
from adapters.registry import register_model

Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)


def is_power_of_two_apart(stride: int, other: int) -> bool:
    """Tell whether one stride is the other one times 1, 2, 4, 8 and so on."""
    small, large = sorted((stride, other))
    ratio, rest = divmod(large, small)
    return rest == 0 and ratio & (ratio - 1) == 0


def check_strides(in_stride: int, out_strides: Sequence[int]) -> tuple[int, ...]:
    """The strides of a pyramid's levels, as a tuple.

    Raises:
        ValueError: a stride is no positive integer, or ``out_strides`` is empty, does not increase or does
            not go by powers of two.
    """
    if not isinstance(in_stride, int) or in_stride < 1:
        raise ValueError(f"in_stride={in_stride!r} must be a positive integer: the image pixels per cell of the map.")
    strides = tuple(out_strides) if isinstance(out_strides, Sequence) else ()
    valid = bool(strides) and all(isinstance(stride, int) and stride > 0 for stride in strides)
    if not valid or any(
        fine >= coarse or not is_power_of_two_apart(fine, coarse) for fine, coarse in pairwise(strides)
    ):
        raise ValueError(
            f"out_strides={out_strides!r} must be increasing positive integers, each the one before times a "
            "power of two, such as (4, 8, 16, 32)."
        )
    return strides


@register_model
class MapNorm(LayerNorm2d):
    """LayerNorm over the channels of each cell, contiguous.

    timm's returns a permuted view, over which Inductor (torch 2.11) fails when it compiles training for changing
    sizes: "cannot determine truth value of Relational". The copy takes no measurable time beside the convs.

    Registered, for ``norm_cfg=dict(type="MapNorm")`` in the heads of ViTDet.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each cell, ``(B, C, h, w)`` -> the same shape."""
        return super().forward(x).contiguous()


def make_conv(in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> nn.Conv2d:
    """A conv that keeps the size (odd ``kernel_size``), started with unit gain."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    return _start_with_unit_gain(conv, in_channels * kernel_size**2)


def make_doubling(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """The 2x2 transposed conv of stride 2, which splits each cell into the four cells that it covers."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    return _start_with_unit_gain(conv, in_channels)  # windows do not overlap: one cell reaches each output


def _start_with_unit_gain(conv: Conv, fan_in: int) -> Conv:
    nn.init.normal_(conv.weight, std=fan_in**-0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class Resample(nn.Module):
    """Bilinear resampling to another stride in which every cell keeps its place in the image.

    Cell ``i`` of a map of stride ``s`` stands for the pixel position ``(i + 0.5) * s``. Resizing to a given
    size shifts these positions whenever that size was rounded; here the scale is exactly
    ``in_stride / out_stride``. Output cells whose centre lies beyond the last input centre repeat the last
    row or column.
    """

    def __init__(self, in_stride: int, out_stride: int) -> None:
        super().__init__()
        self.in_stride = in_stride
        self.out_stride = out_stride

    def forward(self, x: Tensor) -> Tensor:
        """Resample ``(B, C, h, w)`` to ``(B, C, ceil(h * r), ceil(w * r))`` with ``r = in_stride / out_stride``."""
        height, width = (count_cells(size * self.in_stride, self.out_stride) for size in x.shape[-2:])
        # interpolate() rounds its output size down: this border lifts it to the ceil, with a cell to spare
        # for ratios that a float cannot hold.
        border = self.out_stride // self.in_stride + 2
        x = F.pad(x, (0, border, 0, border), mode="replicate")
        ratio = self.in_stride / self.out_stride
        x = F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False, recompute_scale_factor=False)
        return x[..., :height, :width]

    def extra_repr(self) -> str:
        return f"in_stride={self.in_stride}, out_stride={self.out_stride}"


def make_resample(in_stride: int, out_strides: Sequence[int]) -> tuple[nn.Module, int]:
    """Make the layer that brings a map within powers of two of ``out_strides``; return it with the stride that follows.

    The new stride is the nearest to ``in_stride``, by ratio, among the first of ``out_strides`` times 1, 2, 4
    and so on: 16 for patches of 14 and levels from 4. Where nothing needs resampling, that is an identity.
    """
    first = out_strides[0]
    if is_power_of_two_apart(in_stride, first):
        return nn.Identity(), in_stride
    stride = first * 2 ** max(round(math.log2(in_stride / first)), 0)
    return Resample(in_stride, stride), stride


def make_rescaling(
    channels: int, in_stride: int, out_stride: int, *, halve: bool, norm: bool
) -> tuple[list[nn.Module], int]:
    """The layers from one stride to another that is a power of two away, and the channels that they end with.

    Up: a doubling for each factor of two, a norm and GELU between two of them (ViTDet, arXiv 2203.16527,
    section 3). Down: one max pooling whose last window may hang over the border, so the size is the ceil.

    Args:
        channels: channels of the map that comes in.
        in_stride: its stride.
        out_stride: the stride to reach.
        halve: whether each doubling halves the channels (ViTDet) or keeps them (UPerNet on ViT).
        norm: whether there is a norm between two doublings.
    """
    assert is_power_of_two_apart(in_stride, out_stride)
    if out_stride > in_stride:
        ratio = out_stride // in_stride
        return [nn.MaxPool2d(ratio, stride=ratio, ceil_mode=True)], channels
    layers: list[nn.Module] = []
    while in_stride > out_stride:
        if layers:
            layers += [MapNorm(channels), nn.GELU()] if norm else [nn.GELU()]
        out_channels = max(channels // 2, 1) if halve else channels
        layers.append(make_doubling(channels, out_channels))
        channels, in_stride = out_channels, in_stride // 2
    return layers, channels
