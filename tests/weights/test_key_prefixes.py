"""Names in a checkpoint: wrappers in their middle, and which of several weights are averaged."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import assert_holds, below, load_twins, save, timm_model, twins

import adapters
from adapters.weights.key_prefixes import Checkpoint

MODEL = twins().state_dict()
OTHER = twins(seed=4).state_dict()


@pytest.mark.parametrize(
    "inner", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module", "_orig_mod.module"]
)
@pytest.mark.parametrize("outer", ["", "backbone.", "_fsdp_wrapped_module.backbone._orig_mod."])
def test_wrappers_inside_names(tmp_path: Path, inner: str, outer: str) -> None:
    state = {re.sub(r"^(blocks\.\d\.\d)\.", rf"\1.{inner}.", key): value for key, value in MODEL.items()}
    assert any(f".{inner}." in key for key in state)
    assert_holds(load_twins(save(below(state, outer), tmp_path / "a.pth")), MODEL)


def test_layers_that_peft_has_wrapped(tmp_path: Path) -> None:
    state = {f"base_model.model.{key.replace('attn.kv.', 'attn.kv.base_layer.')}": MODEL[key] for key in MODEL}
    assert_holds(load_twins(save(state, tmp_path / "a.pth")), MODEL)
    state["base_model.model.blocks.0.1.attn.kv.lora_A.default.weight"] = torch.ones(2, 8)
    with pytest.raises(
        ValueError, match=r"1 problem,.*\n +unexpected +blocks.*lora_A.*save model\.merge_and_unload\(\)"
    ):
        load_twins(save(state, tmp_path / "a.pth"))


def test_a_models_own_parts_are_no_wrappers(tmp_path: Path) -> None:
    """timm's iFormer has layers of the name that DDP gives to what it wraps, and its DLA of the one of peft's."""
    contents = {"net.stages.0.module.weight": torch.ones(1)}
    names = ["stages.0.module.weight"]
    assert set(Checkpoint.from_contents(contents, "a.pth", names).below("net.")) == set(names)
    assert set(Checkpoint.from_contents(contents, "a.pth", []).below("net.")) == {"stages.0.weight"}
    assert set(Checkpoint.from_contents(contents, "a.pth").below("net.")) == set(names)
    trunk = {"channels": (16, 16, 16, 16, 16, 16)}
    model = timm_model("dla34", trunk)
    path = save(below(model.state_dict(), "model."), tmp_path / "a.pth")
    assert_holds(adapters.create_adapter("dla34", weights=path, trunk=trunk), model.state_dict())


def test_two_names_that_a_wrapper_tells_apart_are_both_kept() -> None:
    checkpoint = Checkpoint.from_contents({"a._orig_mod.b": torch.zeros(1), "a.b": torch.ones(1)}, "a.pth")
    assert set(checkpoint.below("")) == {"a._orig_mod.b", "a.b"}


@pytest.mark.parametrize(
    ("taken", "set_aside", "standing"),
    [
        ("teacher.backbone.", "student.backbone.", "teacher"),
        ("teacher.backbone.", "backbone.", "teacher"),
        ("model.ema_model.module.net.", "model.net.", "ema_model"),
        ("momentum_encoder.module.0.", "backbone.", "momentum_encoder"),
        ("target_encoder.", "encoder.", "target_encoder"),
        ("encoder.", "encoder_student.", "state_dict"),
    ],
)
def test_averaged_weights_at_any_depth(
    tmp_path: Path, logged: list[str], taken: str, set_aside: str, standing: str
) -> None:
    state = {"state_dict": {**below(OTHER, set_aside), **below(MODEL, taken)}}
    path = save(state, tmp_path / "a.pth")
    assert_holds(load_twins(path), MODEL)
    assert f"left out 1 (second to {standing!r}: state_dict.{set_aside})" in logged[0]
    cfg = {"type": "Pretrained", "checkpoint": path, "prefix": set_aside}
    assert_holds(load_twins(None, init_cfg=cfg), OTHER)


@pytest.mark.parametrize("contents", [{"a": {"b": torch.ones(1)}}, {"a.b": torch.ones(1)}])
def test_prefixes_by_the_number_of_their_tensors(contents: dict[str, Any]) -> None:
    checkpoint = Checkpoint.from_contents({**contents, "c": torch.ones(1)}, "a.pth")
    assert checkpoint.prefixes(1) == ["", "a."]
    assert checkpoint.prefixes(2) == [""]
