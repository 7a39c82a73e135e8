"""Adapters in torchvision's detectors: the maps are the adapter's, everything learns, and names are timm's."""

from dataclasses import replace

import pytest
import torch
from lab.frameworks import steps
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7
from zoo import PYRAMID, ZOO, image

from adapters.interop.torchvision import TorchvisionBackbone

SPECS = {spec.name: spec for spec in ZOO}


def build(name: str) -> TorchvisionBackbone:
    """The backbones of the four detectors, and of four kinds of trunk."""
    if name == "vit_patch14_reg":
        pyramid = {**PYRAMID, "out_channels": 16, "extra_level": True}
        spec = replace(SPECS[name], options={**SPECS[name].options, "pyramid": pyramid})
        return TorchvisionBackbone(spec.build(), fpn_channels=None)
    if name in ("swinv2_cr_ns", "resnet"):
        adapter = SPECS[name].build(out_indices=(1, 2, 3) if name == "swinv2_cr_ns" else (2, 3, 4))
        return TorchvisionBackbone(adapter, steps.WIDTH, LastLevelP6P7(steps.WIDTH, steps.WIDTH))
    return TorchvisionBackbone(SPECS[name].build(), fpn_channels=16)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(FasterRCNN, "twins_svt"), (MaskRCNN, "vit_patch14_reg"), (RetinaNet, "swinv2_cr_ns"), (FCOS, "resnet")],
)
def test_a_detector_trains_and_detects(kind: type[nn.Module], name: str) -> None:
    model = steps.detector(kind, build(name)).train()
    steps.detection_loss(model, image(97, 65, batch=1)).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    model.transform.min_size = (64,)
    results = model.eval()([image(64, 96, batch=1)[0], image(50, 33, batch=1)[0]])
    assert [len(result["boxes"]) == len(result["scores"]) for result in results] == [True, True]


def test_the_maps_are_the_adapters_through_torchvisions_fpn() -> None:
    backbone, x = build("twins_svt"), image(97, 65)
    fpn = FeaturePyramidNetwork([level.channels for level in backbone.adapter.levels], 16, LastLevelMaxPool())
    fpn.load_state_dict(backbone.fpn.state_dict())
    with torch.no_grad():
        expected = fpn({str(place): feature_map for place, feature_map in enumerate(backbone.adapter(x))})
        actual = backbone(x)
    assert backbone.out_channels == 16
    assert list(actual) == ["0", "1", "2", "3", "pool"]
    for name, feature_map in actual.items():
        torch.testing.assert_close(feature_map, expected[name])


def test_a_pyramid_goes_without_an_fpn() -> None:
    backbone, x = build("vit_patch14_reg"), image(97, 65)
    with torch.no_grad():
        maps, expected = backbone(x), backbone.adapter(x)
    assert backbone.out_channels == 16
    assert list(maps) == ["0", "1", "2", "3", "4"]
    assert all(torch.equal(one, other) for one, other in zip(maps.values(), expected, strict=True))


def test_names_below_the_trunk_are_timms() -> None:
    backbone = build("twins_svt")
    state = backbone.state_dict()
    trunk = {key.removeprefix("adapter.trunk.") for key in state if key.startswith("adapter.trunk.")}
    assert trunk == set(backbone.adapter.trunk.state_dict())
    assert {key.split(".")[0] for key in state} == {"adapter", "fpn"}
    other = TorchvisionBackbone(SPECS["twins_svt"].build(), fpn_channels=16)
    other.load_state_dict(state)


def test_maps_that_torchvision_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"^torchvision takes strides .* pyramid=dict"):
        TorchvisionBackbone(SPECS["vit"].build())
    with pytest.raises(ValueError, match=r"gives \[16, 32, 48, 64\]; set fpn_channels=256"):
        TorchvisionBackbone(SPECS["twins_svt"].build(), fpn_channels=None)
    with pytest.raises(ValueError, match="no FPN for extra_blocks=LastLevelMaxPool"):
        TorchvisionBackbone(SPECS["vit_pyramid"].build(), fpn_channels=None, extra_blocks=LastLevelMaxPool())
