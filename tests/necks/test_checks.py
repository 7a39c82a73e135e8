"""Numbers and maps that the pyramids refuse."""

import pytest
import torch
from torch import nn

from adapters.necks.checks import check_numbers
from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"in_stride": 0}, "in_stride=0 must be a positive integer: the image pixels per cell"),
        ({"in_stride": 16.0}, "in_stride=16.0 must be a positive integer"),
        ({"out_strides": ()}, r"out_strides=\(\) must be increasing positive integers"),
        ({"out_strides": 4}, "out_strides=4 must be increasing positive integers"),
        ({"out_strides": (8, 4)}, r"out_strides=\(8, 4\) must be increasing.*such as \(4, 8, 16, 32\)"),
        ({"out_strides": (4, 4)}, r"out_strides=\(4, 4\) must be increasing"),
        ({"out_strides": (0, 4)}, r"out_strides=\(0, 4\) must be increasing positive"),
        ({"in_channels": 0}, "in_channels=0 must be a positive number of channels"),
        ({"in_channels": []}, r"in_channels=\[\] must be a positive number of channels, or one for each map"),
        ({"out_channels": -1}, r"out_channels=\[-1\] must be a positive number of channels"),
    ],
)
@pytest.mark.parametrize("pyramid", [SimpleFeaturePyramid, TapPyramid])
def test_values_that_are_refused(pyramid: type, keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyramid(**{"in_channels": 8, **keywords})


@pytest.mark.parametrize("pyramid", [SimpleFeaturePyramid(8), TapPyramid(8)])
def test_maps_that_are_refused(pyramid: nn.Module) -> None:
    with pytest.raises(ValueError, match="takes the tuple of maps of a backbone"):
        pyramid(torch.randn(4, 8, 4, 4))
    with pytest.raises(ValueError, match=r"got maps of \(.*5\S*\) channels but its in_channels are \(8"):
        pyramid([torch.randn(1, 5, 4, 4)] * 4)


def test_numbers_that_are_refused() -> None:
    check_numbers(drop=0, rate=7.5)
    check_numbers(1, drop=0.99)
    with pytest.raises(ValueError, match=r"drop=1\.0 must be a number of at least 0 and below 1\."):
        check_numbers(1, drop=1.0)
    with pytest.raises(ValueError, match=r"rate=-1 must be a number of at least 0\."):
        check_numbers(rate=-1)
