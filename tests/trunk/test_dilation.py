"""``trunk=dict(output_stride=...)``: timm's dilated models at any size, and one error for the others."""

import math
from typing import Any

import pytest
import timm
import torch
from lab.randomise import randomise
from references import crop, pad, relative_error, timm_maps
from zoo import TWINS, image

import adapters

SIZE = (65, 97)
RESNET = {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)}
#: One small model of each class of timm's that can be dilated.
DILATABLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("resnet18", RESNET),
    ("resnetv2_18", {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}),
    ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    ("inception_next_atto", {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)}),
    ("regnetx_002", {}),
    ("gernet_s", {}),
    ("darknet17", {}),
    ("cspnext_tiny", {}),
    ("rexnet_100", {}),
    ("tinynet_e", {}),
)
MOBILENETS = ("mobilenetv3_small_050", "mobilenetv4_conv_small")


def dilated(name: str, output_stride: int = 8, trunk: dict[str, Any] | None = None, **options: Any) -> Any:
    """An adapter with every parameter randomised, in eval mode."""
    torch.manual_seed(0)
    trunk = {**(trunk or {}), "output_stride": output_stride}
    return randomise(adapters.TimmAdapter(name, trunk=trunk, **options)).eval()


@pytest.mark.parametrize(("name", "trunk"), DILATABLE, ids=[name for name, _ in DILATABLE])
@torch.no_grad()
def test_equals_timms_dilated_model_at_an_odd_size(name: str, trunk: dict[str, Any]) -> None:
    adapter = dilated(name, 8, trunk)
    assert [level.stride for level in adapter.levels] == [4, 8, 8, 8]
    model = timm.create_model(name, output_stride=8, **trunk).eval()
    model.load_state_dict(adapter.trunk.state_dict(), strict=False)
    x = image(*SIZE)
    expected = timm_maps(model, pad(x, adapter.pad_multiple), adapter.out_indices, norm=False)
    for actual, wanted, level in zip(adapter(x), expected, adapter.levels, strict=True):
        assert actual.shape[1:] == (level.channels, *(math.ceil(side / level.stride) for side in SIZE))
        assert relative_error(actual, crop(wanted, SIZE, level.stride)) < 1e-4
    plain = timm.create_model(name, **trunk)
    own = {key: tensor.shape for key, tensor in plain.state_dict().items()}
    assert all(own[key] == tensor.shape for key, tensor in adapter.trunk.state_dict().items())  # checkpoints fit


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", MOBILENETS)
@torch.no_grad()
def test_mobilenets_are_dilated_as_timms_feature_extractor_is(name: str, output_stride: int) -> None:
    adapter = dilated(name, output_stride)
    assert [level.stride for level in adapter.levels] == [4, 8, output_stride, output_stride]
    model = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    assert not model.load_state_dict(adapter.trunk.state_dict(), strict=False).missing_keys
    x = image(*SIZE)
    maps = model(pad(x, adapter.pad_multiple))
    expected = [maps[index] for index in adapter.out_indices]
    for actual, wanted, level in zip(adapter(x), expected, adapter.levels, strict=True):
        assert relative_error(actual, crop(wanted, SIZE, level.stride)) < 1e-4


def test_a_dilated_backbone_trains_with_frozen_stages_and_a_pyramid() -> None:
    adapter = dilated(
        "resnet18", 8, RESNET, frozen_stages=2, pyramid={"type": "SimpleFeaturePyramid", "out_channels": 8}
    ).train()
    assert [level.stride for level in adapter.levels] == [4, 8, 16, 32]
    sum(feature_map.square().mean() for feature_map in adapter(image(*SIZE))).backward()
    trained = {name for name, parameter in adapter.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert not adapter.trunk.layer1.training
    assert adapter.trunk.layer4.training


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tinynet_e"])
def test_a_checkpoint_of_the_plain_model_loads(name: str, tmp_path: Any) -> None:
    state = randomise(timm.create_model(name)).state_dict()
    torch.save(state, tmp_path / "plain.pth")
    adapter = adapters.create_adapter(name, weights=str(tmp_path / "plain.pth"), trunk={"output_stride": 8})
    assert all(torch.equal(tensor, state[key]) for key, tensor in adapter.trunk.state_dict().items())


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("swin_tiny_patch4_window7_224", 8),  # timm's class does not know the argument
        ("dla46_c", 16),  # timm asserts
        ("resnet18", 12),
        ("cspnext_tiny", 4),  # timm raises
        ("eca_nfnet_l0", 64),  # timm passes over it
        ("resnet18", "8"),
        ("mobilenetv3_small_050", 4),
    ],
)
def test_what_timm_cannot_dilate_is_one_clear_error(name: str, output_stride: Any) -> None:
    with pytest.raises(ValueError, match=rf"output_stride={output_stride!r}.* {name}, .*strides are \[.*Leave it out"):
        adapters.TimmAdapter(name, trunk={"output_stride": output_stride})


def test_a_models_own_stride_is_granted() -> None:
    adapter = adapters.TimmAdapter("twins_svt_small", trunk={**TWINS, "output_stride": 32})
    assert [level.stride for level in adapter.levels] == [4, 8, 16, 32]


def test_another_mistake_is_named_before_dilation() -> None:
    with pytest.raises(ValueError, match="takes no 'depthz'"):
        adapters.TimmAdapter("dla46_c", trunk={"output_stride": 8, "depthz": 3})
