"""The tap pyramid against layers composed by hand, and the maps that it asks for."""

import pytest
import torch
from small_pyramids import ChannelNorm, randomise, share_weights
from torch import nn

from adapters.necks.tap_pyramid import TapPyramid


@pytest.mark.parametrize("out_channels", [None, 6])
def test_tap_pyramid_rescales_each_map_to_its_stride(out_channels: int | None) -> None:
    in_channels = (8, 10, 12, 14)
    pyramid = randomise(TapPyramid(in_channels, 16, out_channels))
    maps = [torch.randn(2, channels, 6, 8) for channels in in_channels]
    outputs = pyramid(maps)
    for index, (channels, x) in enumerate(zip(in_channels, maps, strict=True)):
        projection = [] if out_channels is None else [nn.Conv2d(channels, out_channels, 1)]
        c = out_channels or channels
        rescaling = [
            [nn.ConvTranspose2d(c, c, 2, 2), ChannelNorm(c), nn.GELU(), nn.ConvTranspose2d(c, c, 2, 2)],
            [nn.ConvTranspose2d(c, c, 2, 2)],
            [],
            [nn.MaxPool2d(2)],
        ][index]
        reference = nn.Sequential(*projection, *rescaling)
        share_weights(reference, pyramid.stages[index])
        torch.testing.assert_close(outputs[index], reference(x), rtol=1e-4, atol=1e-5)


def test_tap_pyramid_says_which_maps_to_ask_for() -> None:
    message = (
        r"one map for each of out_strides=\(4, 8, 16, 32\), 4 in all, but got 1. Ask the backbone for 4 "
        r"blocks, such as out_indices=\(2, 5, 8, 11\) of a model with 12"
    )
    with pytest.raises(ValueError, match=message):
        TapPyramid([8])
    with pytest.raises(ValueError, match=message):
        TapPyramid(8)([torch.randn(1, 8, 4, 4)])
