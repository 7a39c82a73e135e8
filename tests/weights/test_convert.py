"""Checkpoints that cannot be converted; ``tests/commands/test_convert.py`` converts the others."""

import pytest
import torch
from small_checkpoints import StateDict, below, twins, vit, with_norms

from adapters.weights.convert import convert

MODEL = twins().state_dict()


@pytest.mark.parametrize(
    ("state", "to", "message"),
    [
        (with_norms(MODEL), "timm", "a dense Twins with a norm after each stage, which timm's model has not"),
        (vit().state_dict(), "mmseg", "holds no Twins, and mmseg's names are for Twins; use --to timm or adapters"),
        ({}, "timm", "holds no backbone that can be told from the rest"),
    ],
)
def test_what_cannot_be_converted(state: StateDict, to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(state, to, None, "a.pth")


def names_of(*parts: str) -> StateDict:
    return {part: torch.ones(2) for part in parts}


TRANSFORMERS = names_of("embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight")
MMPRETRAIN = names_of("cls_token", "patch_embed.projection.weight", "layers.0.ln1.weight", "layers.0.attn.qkv.weight")


@pytest.mark.parametrize(
    ("state", "prefix", "message"),
    [
        (TRANSFORMERS, "", "2 of the 2 names are none of timm's, such as embeddings"),
        (below(MMPRETRAIN, "backbone."), None, "names below 'backbone.' are none of timm's.*--model"),
        (below(vit().state_dict(), "student.backbone."), "student", r"none of timm's, such as backbone\."),
        ({**below(vit().state_dict(), "a."), **below(vit().state_dict(), "b.")}, "", r"none of timm's, such as a\."),
        ({**vit().state_dict(), "optimizer": names_of("exp_avg")}, "", r"1 of the .* such as optimizer\.exp_avg"),
        ({**vit().state_dict(), **names_of("blocks.0.attn.qkv.lora_A.weight")}, "", "such as blocks.0.attn.qkv.lora_A"),
        ({"model": below(vit().state_dict(), "a.")}, "ab", r"holds nothing below --prefix ab; there is model\.a"),
        ({"one": below(MODEL, "a."), "two": below(MODEL, "a.")}, "a", r"holds 'one\.a\.', 'two\.a\.'; give one"),
    ],
)
def test_names_that_the_target_could_not_load_are_not_written(
    state: StateDict, prefix: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(state, "timm", prefix, "a.pth")


@pytest.mark.parametrize("prefix", ["teacher.backbone", "teacher.backbone.", "model.teacher.backbone."])
def test_a_prefix_is_exact_and_needs_no_dot(prefix: str) -> None:
    teacher, student = vit().state_dict(), vit().state_dict()
    both = {**below(teacher, "teacher.backbone."), **below(student, "student.backbone.")}
    found = convert({"model": both, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}, "timm", prefix, "a.pth")
    assert found.state.keys() == teacher.keys()
    assert all(torch.equal(found.state[key], tensor) for key, tensor in teacher.items())
    assert found.found_as == "timm's names below 'model.teacher.backbone.'"
    assert found.notes[1] == "they are of model.student, optimizer.state"


def test_wrappers_inside_names_are_taken_out() -> None:
    state = vit().state_dict()
    wrapped = {key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): state[key] for key in state}
    assert convert(below(wrapped, "_orig_mod."), "timm", "_orig_mod", "a.pth").state.keys() == state.keys()
