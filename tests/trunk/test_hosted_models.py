"""Models by the names ``local-dir:FOLDER`` and ``hf-hub:OWNER/NAME``: built, loaded and described as timm's own."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models._hub import save_for_hf
from torch import nn
from zoo import TOKENS, randomise

import adapters
from adapters.describe.backbones import describe_backbone
from adapters.listing import default_levels
from adapters.trunk.build import timm_module_name
from adapters.trunk.hosted_models import has_weights, hosted_model

#: Models as they were trained: an architecture, and arguments that change its structure.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("resnet10t", {"num_classes": 4}),
    "tokens": (
        "vit_small_patch16_224",
        {**TOKENS, "img_size": 48, "patch_size": 8, "reg_tokens": 4, "global_pool": "avg", "num_classes": 3},
    ),
    "windows": ("swinv2_cr_tiny_ns_224", {"depths": [1, 1, 1, 1], "embed_dim": 24, "img_size": 128}),
    "fixed size": ("swin_tiny_patch4_window7_224", {"depths": [1, 1, 1, 1], "embed_dim": 24, "img_size": 64}),
    "four channels": ("resnet18", {"in_chans": 4, "num_classes": 2}),
}


def host(folder: Path, kind: str) -> tuple[str, nn.Module]:
    """Write a model as timm does for the hub; its name, and the model."""
    architecture, arguments = MODELS[kind]
    model = randomise(timm.create_model(architecture, **arguments), seed=4).eval()
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return f"local-dir:{folder}", model


@pytest.mark.parametrize("kind", MODELS)
def test_a_folder_is_a_model_with_its_weights(tmp_path: Path, kind: str) -> None:
    name, model = host(tmp_path, kind)
    channels = MODELS[kind][1].get("in_chans", 3)
    adapter = adapters.create_adapter(name, weights="timm", in_channels=channels).eval()
    assert type(adapter) is type(adapters.TimmAdapter(MODELS[kind][0]))
    size = MODELS[kind][1].get("img_size", 64)
    image = torch.randn(1, channels, size, size)
    with torch.no_grad():
        expected = model.forward_intermediates(image, indices=list(adapter.out_indices), intermediates_only=True)
        for found, wanted in zip(adapter(image), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_everything_that_takes_a_name_takes_this_one(tmp_path: Path) -> None:
    name, _ = host(tmp_path, "tokens")
    assert timm_module_name(name) == "vision_transformer"
    assert has_weights(name)
    assert {level.stride for level in default_levels(name)} == {8}
    described = describe_backbone(name)
    assert described.family == "VisionTransformerAdapter"
    assert f"model_name={name!r}" in described.lines
    assert "weights='timm'" in described.lines
    assert described.count.size == (48, 48)
    trunk = adapters.TimmAdapter(name, trunk={"depth": 2}).trunk
    assert len(trunk.blocks) == 2  # an argument of the user's comes before the description's


def test_a_config_of_mmdet_and_an_extraction(tmp_path: Path) -> None:
    from mmengine.registry import MODELS as REGISTRY

    name, model = host(tmp_path / "model", "residual")
    backbone = REGISTRY.build({"type": "TimmAdapter", "model_name": name, "weights": "timm"})
    backbone.init_weights()
    assert torch.equal(backbone.trunk.conv1[0].weight, model.conv1[0].weight)
    found = next(iter(adapters.extract(_image(tmp_path), name)))
    assert found


def _image(folder: Path) -> str:
    from PIL import Image

    Image.new("RGB", (40, 30)).save(folder / "a.png")
    return str(folder / "a.png")


def write_config(folder: Path, config: Any) -> str:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["ViTModel"], "model_type": "vit"}, "is not timm's, which has 'architecture'"),
        ("{", "is not timm's"),
        ([], "is not timm's"),
        ({"architecture": "nonet", "pretrained_cfg": {}}, "is a 'nonet', which timm .* does not have"),
        (
            {"architecture": "resnet18", "pretrained_cfg": {}, "model_args": {"features_only": True}},
            "sets features_only in model_args, which no backbone takes",
        ),
        (
            {"architecture": "resnet18", "pretrained_cfg": {}, "model_args": {"nonsense": True}},
            "sets 'nonsense' in model_args, which timm .*'s resnet18 does not take",
        ),
    ],
)
def test_a_description_that_is_none_of_timms(tmp_path: Path, config: Any, message: str) -> None:
    name = write_config(tmp_path, config)
    with pytest.raises(ValueError, match=message) as caught:
        adapters.TimmAdapter(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-dir:/no/such", r"names no folder with a config\.json \(looked at /no/such/config\.json\)"),
        ("owner/name", "Use 'hf-hub:owner/name'"),
        ("s3:bucket", "valid sources: hf-hub, local-dir"),
        ("hf-hub:", "has no model id"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapters.TimmAdapter(name)


def test_the_hub_is_asked_once_and_its_absence_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    _, model = host(tmp_path / "repository", "residual")
    asked: list[str] = []

    def fetch(repo_id: str, filename: str, **_: Any) -> str:
        asked.append(filename)
        if repo_id == "nobody/nothing":
            raise LocalEntryNotFoundError("no connection\nand more")
        return str(tmp_path / "repository" / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", fetch)
    adapter = adapters.create_adapter("hf-hub:somebody/residual", weights="timm")
    assert torch.equal(adapter.trunk.conv1[0].weight, model.conv1[0].weight)
    assert asked == ["config.json", "model.safetensors"]
    with pytest.raises(
        ValueError, match=r"could not be fetched .*no connection\). Check the name and the net"
    ) as caught:
        adapters.TimmAdapter("hf-hub:nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_folder_that_changes_is_read_again(tmp_path: Path) -> None:
    name = write_config(tmp_path, {"architecture": "resnet18", "pretrained_cfg": {}})
    first = hosted_model(name)
    write_config(tmp_path, {"architecture": "resnet34", "pretrained_cfg": {}})
    os.utime(tmp_path / "config.json", ns=(1, 1))
    second = hosted_model(name)
    assert first is not None
    assert second is not None
    assert (first.architecture, second.architecture) == ("resnet18", "resnet34")
