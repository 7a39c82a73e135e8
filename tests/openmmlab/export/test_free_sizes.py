"""Layers in a form for any size, beside torch's and mmseg's own."""

import pytest
import torch
from mmseg.models.utils import Upsample
from torch import nn

from adapters.openmmlab.export.free_sizes import free_sizes


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((2, 5)),
        Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        Upsample(scale_factor=1.5, mode="nearest"),
    ],
)
@pytest.mark.parametrize("size", [(7, 11), (2, 6), (16, 9)])
def test_they_compute_the_same(layer: nn.Module, size: tuple[int, int]) -> None:
    model = nn.Sequential(layer)
    free_sizes(model)
    assert type(model[0]) is not type(layer)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(model(x), layer(x))


def test_other_layers_stay() -> None:
    layers = [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((None, 3)), Upsample(size=(4, 4)), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers)
    free_sizes(model)
    assert list(model) == layers
