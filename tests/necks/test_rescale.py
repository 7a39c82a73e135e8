"""Resampling and doubling: cells keep their place in the image, and layers their gain."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_pyramids import gradients, ramp_image
from torch import nn

from adapters.necks.rescale import (
    MapNorm,
    Resample,
    is_power_of_two_apart,
    make_conv,
    make_doubling,
    make_rescaling,
)


@pytest.mark.parametrize("layer", [make_conv(32, 64, 1, True), make_conv(32, 64, 3, True), make_doubling(32, 64)])
def test_convs_start_with_unit_gain(layer: nn.Module) -> None:
    assert layer(torch.randn(2, 32, 64, 64)).std().item() == pytest.approx(1, abs=0.06)
    assert not layer.bias.any()


@pytest.mark.parametrize(("stride", "wanted"), [(14, 16), (12, 16), (10, 8), (7, 8), (14, 7 * 3), (9, 7)])
def test_resampling_puts_each_cell_where_pooling_the_image_would(stride: int, wanted: int) -> None:
    height, width = 11, 7
    image = ramp_image(height * stride, width * stride)
    resampled = Resample(stride, wanted)(F.avg_pool2d(image, stride))
    pooled = F.avg_pool2d(image, wanted)  # of the whole cells
    reached = [math.floor((cells - 0.5) * stride / wanted + 0.5) for cells in (height, width)]
    assert min(reached) >= 4
    inside = (..., slice(reached[0]), slice(reached[1]))
    expected, got = pooled[inside], resampled[inside]
    begin = int(wanted < stride)  # the first centre then lies before the first that comes in
    torch.testing.assert_close(got[..., begin:, begin:], expected[..., begin:, begin:], rtol=1e-5, atol=1e-3)


def test_strides_are_powers_of_two_apart() -> None:
    assert all(is_power_of_two_apart(4, other) for other in (1, 2, 4, 8, 32))
    assert not any(is_power_of_two_apart(4, other) for other in (3, 5, 6, 12, 14))


def test_pooling_to_a_coarser_stride_keeps_the_cells_at_the_border() -> None:
    (pooling,), channels = make_rescaling(3, 8, 32, halve=True, norm=True)
    pooled = pooling(torch.arange(25.0).reshape(1, 1, 5, 5))
    assert channels == 3
    assert pooled.tolist() == [[[[18, 19], [23, 24]]]]


def test_resampling_repeats_the_border() -> None:
    resampled = Resample(14, 16)(torch.full((1, 1, 3, 5), 7.0))
    torch.testing.assert_close(resampled, torch.full((1, 1, 3, 5), 7.0))


def test_a_norm_between_convs_trains_when_compiled_for_sizes_that_change() -> None:
    """Inductor (torch 2.11) generates no code for the backward pass of timm's own norm, which gives a permuted view.

    Generating and compiling C++ takes half a minute, so the view is asked for, and the rest is compiled without it.
    """
    layers = nn.Sequential(make_conv(4, 4, 1, bias=False), MapNorm(4), make_conv(4, 4, 3, bias=False))
    compiled = torch.compile(layers, backend="aot_eager", dynamic=True, fullgraph=True)
    for height, width in ((5, 7), (17, 10)):
        x = torch.randn(1, 4, height, width)
        assert layers[1](x).is_contiguous()
        one, other = (gradients(run, layers, x) for run in (compiled, layers))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
