"""Folders in peft's format: the library itself reads ours, and we read the library's."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from torch import Tensor, nn
from zoo import image, randomise

import adapters
from adapters.tuning import folder

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 4}
MODEL = "vit_tiny_patch16_224"


def bare() -> nn.Module:
    torch.manual_seed(0)
    return randomise(timm.create_model(MODEL, **SMALL)).eval()


@pytest.fixture
def base(tmp_path: Path) -> str:
    torch.save(bare().state_dict(), tmp_path / "base.pth")
    return str(tmp_path / "base.pth")


def changed(model: nn.Module) -> nn.Module:
    """The model with all that trains moved, in place."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def maps(adapter: adapters.BackboneAdapter) -> tuple[Tensor, ...]:
    with torch.no_grad():
        outcome: tuple[Tensor, ...] = adapter.eval()(image(224, 224))
    return outcome


def assert_close(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(one, other, strict=True))


def adapter(weights: str, **options: Any) -> adapters.BackboneAdapter:
    return adapters.create_adapter(MODEL, trunk=SMALL, weights=weights, **options)


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_peft_loads_what_is_written_onto_timms_model(kind: str, base: str, tmp_path: Path) -> None:
    option = dict(type=kind, r=2, alpha=3, targets="all", norms=True, biases=True)
    tuned = changed(adapter(base, peft=option))
    assert tuned.low_rank is not None
    names, state = tuned.low_rank.trained_names(tuned.trunk), tuned.trunk.state_dict()
    folder.write(tmp_path / "saved", tuned.low_rank, {name: state[name] for name in names}, base)
    theirs = peft.PeftModel.from_pretrained(bare(), str(tmp_path / "saved")).eval()
    x = image(224, 224)
    with torch.no_grad():
        assert_close(tuple(theirs.get_base_model().forward_intermediates(x, intermediates_only=True)), maps(tuned))
    assert_close(maps(adapter(str(tmp_path / "saved"))), maps(tuned))
    again = adapter(str(tmp_path / "saved/adapter_model.safetensors"), peft=option)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.trunk.state_dict().items())


def test_what_peft_writes_is_loaded_merged_and_into_factors(base: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["qkv", "fc1"], rank_pattern={"fc1": 3}, use_rslora=True)
    theirs = changed(peft.get_peft_model(bare(), config)).eval()
    theirs.save_pretrained(str(tmp_path / "theirs"))
    with pytest.raises(ValueError, match=r"holds low-rank factors alone, and its adapter_config.json does not name"):
        adapter(str(tmp_path / "theirs"))
    path = tmp_path / "theirs/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    x = image(224, 224)
    with torch.no_grad():
        expected = tuple(theirs.get_base_model().forward_intermediates(x, intermediates_only=True))
    assert_close(maps(adapter(str(tmp_path / "theirs"))), expected)
    assert len(maps(adapter(str(tmp_path / "theirs"), out_indices=(0,)))) == 1  # the rest is left out
    with pytest.raises(ValueError, match=r"does not fit vit_tiny") as refusal:
        adapter(str(tmp_path / "theirs"), peft={"r": 2, "targets": ["qkv", "fc2"], "alpha": 4})
    for problem in (
        r"value +lora_scaling +4\.24264 in the folder, 2 in the model",
        r"missing +trunk\.blocks\.0\.mlp\.fc2\.lora_A\.default\.weight +not in the folder",
        r"unexpected +trunk\.blocks\.0\.mlp\.fc1\.lora_A\.default\.weight +of a layer that peft=\.\.\. leaves out",
    ):
        assert re.search(problem, str(refusal.value))


def test_a_folder_of_another_kind_or_without_its_tensors_is_refused(tmp_path: Path) -> None:
    assert folder.find(str(tmp_path)) is None
    config = tmp_path / "adapter_config.json"
    for text, message in {
        '{"peft_type": "IA3"}': "an adapter of peft's of type IA3; LORA",
        "[]": "is no config of peft's",
        '{"peft_type": "LORA", "r": 2}': r"holds no adapter_model\.safetensors",
    }.items():
        config.write_text(text)
        with pytest.raises(ValueError, match=message):
            folder.read(tmp_path)


def test_names_go_there_and_back() -> None:
    for name in ("blocks.0.attn.qkv.lora_A.default.weight", "blocks.0.fc.lora_magnitude_vector.default.weight"):
        assert folder.from_peft(f"base_model.model.{folder.to_peft(name)}") == name
    assert folder.to_peft("blocks.0.fc.lora_magnitude_vector.default.weight") == "blocks.0.fc.lora_magnitude_vector"
    assert folder.from_peft("base_model.model.blocks.0.fc.base_layer.bias") == "blocks.0.fc.bias"
