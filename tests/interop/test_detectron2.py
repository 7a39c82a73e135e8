"""Adapters in a stand-in for detectron2, which is installed on few machines: its base class, its FPN, its padding."""

import math
from abc import ABCMeta
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import ZOO, image

from adapters.interop.detectron2 import Detectron2Backbone

SPECS = {spec.name: spec for spec in ZOO}


class Backbone(nn.Module, metaclass=ABCMeta):
    """What detectron2 wants a backbone to be an instance of; it can be registered with."""


class FPN(nn.Module):
    """What detectron2's FPN does with the backbone below it."""

    def __init__(self, bottom_up: Detectron2Backbone, in_features: list[str], out_channels: int) -> None:
        super().__init__()
        assert isinstance(bottom_up, Backbone)
        shapes = [bottom_up.output_shape()[name] for name in in_features]
        assert all(coarse.stride == 2 * fine.stride for fine, coarse in pairwise(shapes))
        self.bottom_up, self.in_features = bottom_up, in_features
        self.laterals = nn.ModuleList(nn.Conv2d(shape.channels, out_channels, 1) for shape in shapes)
        self.names = [f"p{int(math.log2(shape.stride))}" for shape in shapes]
        self.size_divisibility = shapes[-1].stride

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.bottom_up(x)
        results: list[Tensor] = []
        for name, lateral in zip(self.in_features[::-1], list(self.laterals)[::-1], strict=True):
            feature_map = lateral(maps[name])
            if results:
                feature_map = feature_map + F.interpolate(results[0], scale_factor=2.0, mode="nearest")
            results.insert(0, feature_map)
        return dict(zip(self.names, results, strict=True))


def pad(images: list[Tensor], divisibility: int, constraints: dict[str, int]) -> Tensor:
    """Batch images as detectron2 does: to the largest sides, and on to a multiple where the backbone has one."""
    assert set(constraints) <= {"size_divisibility", "square_size"}
    sides = [max(image.shape[axis] for image in images) for axis in (-2, -1)]
    height, width = (side + -side % divisibility if divisibility > 1 else side for side in sides)
    return torch.stack([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])


@pytest.fixture(autouse=True)
def registered() -> None:
    Backbone.register(Detectron2Backbone)


def test_an_fpn_over_an_adapter() -> None:
    backbone = Detectron2Backbone(SPECS["twins_svt"].build().train())
    shapes = backbone.output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
        "res2": (16, 4),
        "res3": (32, 8),
        "res4": (48, 16),
        "res5": (64, 32),
    }
    model = FPN(backbone, ["res3", "res4", "res5"], 8)
    images = [image(97, 65, batch=1)[0], image(50, 80, batch=1)[0]]
    x = pad(images, model.size_divisibility, backbone.padding_constraints)
    maps = model(x)
    assert [(name, tuple(m.shape)) for name, m in maps.items()] == [
        ("p3", (2, 8, 16, 12)),
        ("p4", (2, 8, 8, 6)),
        ("p5", (2, 8, 4, 3)),
    ]
    sum(feature_map.square().mean() for feature_map in maps.values()).backward()
    # res2 comes out unused, as it does in detectron2's own ResNet; everything below it is used.
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_a_pyramid_needs_no_fpn_and_any_size() -> None:
    adapter = SPECS["vit_pyramid"].build()
    backbone = Detectron2Backbone(adapter)
    images = [image(97, 65, batch=1)[0], image(50, 80, batch=1)[0]]
    x = pad(images, backbone.size_divisibility, backbone.padding_constraints)
    assert tuple(x.shape[-2:]) == (97, 80)
    with torch.no_grad():
        maps, expected = backbone(x), adapter(x)
    assert list(maps) == list(backbone.output_shape()) == ["p2", "p3", "p4", "p5"]
    assert all(torch.equal(one, other) for one, other in zip(maps.values(), expected, strict=True))
    for name, shape in backbone.output_shape().items():
        cells = tuple(-(-side // shape.stride) for side in x.shape[-2:])
        assert (shape.channels, *cells) == tuple(maps[name].shape[1:])


def test_strides_that_detectron2_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"^detectron2 takes strides .* gives stride 14: 48 channels.*pyramid=dict"):
        Detectron2Backbone(SPECS["vit_patch14_reg"].build(out_indices=(3,)))
