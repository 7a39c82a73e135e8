"""Twins between projects: names as their code has them, tensors there and back, and mmseg's own outputs."""

from pathlib import Path

import pytest
import torch
from small_checkpoints import PCPVT, SVT, TWINS, StateDict, below, load_twins, mmseg_model, save, twins, with_norms
from torch import nn
from zoo import image

import adapters
from adapters.weights.formats import FORMATS

MODELS = (SVT, PCPVT)

#: What the original ``gvt.py`` calls the parts of a block, by the kind of its attention.
LOCAL, GLOBAL, REDUCED = ("attn.qkv", "attn.proj"), ("attn.q", "attn.kv", "attn.proj"), ("attn.sr", "attn.norm")


def original_names(model_name: str, dense: bool) -> set[str]:
    """Names of the parameters in the original code, for the small models of these tests."""
    modules = ["norm", "head"]
    for stage, depth in enumerate(TWINS["depths"]):
        modules += [f"patch_embeds.{stage}.proj", f"patch_embeds.{stage}.norm", f"pos_block.{stage}.proj.0"]
        modules += [f"norm_list.{stage}"] if dense else []
        for block in range(depth):
            local = model_name == SVT and block % 2 == 0
            reduced = not local and stage < 3  # The last stage attends at full resolution.
            parts = (
                "norm1",
                "norm2",
                "mlp.fc1",
                "mlp.fc2",
                *(LOCAL if local else GLOBAL),
                *(REDUCED if reduced else ()),
            )
            modules += [f"blocks.{stage}.{block}.{part}" for part in parts]
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def mmpretrain_names(model_name: str, final: bool, dense: bool) -> set[str]:
    """Names in mmpretrain's ``twins.py``, written from its modules."""
    modules = ["norm_after_stage3"] if final else []
    for stage, depth in enumerate(TWINS["depths"]):
        modules += [
            f"patch_embeds.{stage}.projection",
            f"patch_embeds.{stage}.norm",
            f"position_encodings.{stage}.proj",
        ]
        modules += [f"norm_after_stage{stage}"] if dense else []
        for block in range(depth):
            local = model_name == SVT and block % 2 == 0
            reduced = not local and stage < 3
            parts = ("norm1", "norm2", "ffn.layers.0.0", "ffn.layers.1", *(LOCAL if local else GLOBAL))
            modules += [f"stages.{stage}.{block}.{part}" for part in (*parts, *(REDUCED if reduced else ()))]
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def assert_same(state: StateDict, expected: StateDict) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


# Names.


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("model_name", MODELS)
def test_names_are_those_of_each_project(model_name: str, dense: bool) -> None:
    state = with_norms(twins(model_name).state_dict()) if dense else twins(model_name).state_dict()
    assert set(state) == original_names(model_name, dense)
    renamed, left = FORMATS["mmseg"].write(state)
    assert set(renamed) == set(mmseg_model(model_name, norm_after_stage=dense).state_dict())
    assert set(left) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    renamed, left = FORMATS["mmpretrain"].write(state)
    assert set(renamed) == mmpretrain_names(model_name, final=not dense, dense=dense)
    assert set(left) == {"head.weight", "head.bias"} | ({"norm.weight", "norm.bias"} if dense else set())
    renamed, left = FORMATS["adapters"].write(state)
    adapter = adapters.TimmAdapter(model_name, trunk=TWINS, stage_norm=dense, out_norm=True)
    assert set(renamed) == {*adapter.state_dict(), "trunk.head.weight", "trunk.head.bias"}
    assert not left


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", ["adapters", "original", "mmseg", "mmpretrain"])
def test_there_and_back_gives_the_same_tensors(name: str, model_name: str, dense: bool) -> None:
    state = with_norms(twins(model_name).state_dict()) if dense else twins(model_name).state_dict()
    renamed, left = FORMATS[name].write(state)
    assert_same({**FORMATS[name].read(renamed), **left}, state)


@pytest.mark.parametrize("model_name", MODELS)
def test_mmsegs_own_tensors_come_back(model_name: str) -> None:
    state = mmseg_model(model_name).state_dict()
    again, left = FORMATS["mmseg"].write(FORMATS["mmseg"].read(state))
    assert_same(again, state)
    assert not left


def test_fused_attention_is_split_as_torch_fuses_it() -> None:
    state = mmseg_model(PCPVT).state_dict()
    attention = nn.MultiheadAttention(8, 1)
    attention.load_state_dict(below_of(state, "layers.0.0.attn.attn."))
    read = FORMATS["mmseg"].read(state)
    query = torch.randn(1, 8)
    reference = attention.in_proj_weight[:8] @ query[0] + attention.in_proj_bias[:8]
    ours = read["blocks.0.0.attn.q.weight"] @ query[0] + read["blocks.0.0.attn.q.bias"]
    torch.testing.assert_close(ours, reference)
    assert read["blocks.0.0.attn.kv.weight"].shape == (16, 8)


def below_of(state: StateDict, prefix: str) -> StateDict:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def with_timms_epsilon(model: nn.Module) -> nn.Module:
    """Give the norms of mmseg's blocks and stages timm's epsilon; embeddings and reductions have the same already."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and not name.startswith("patch_embeds") and not name.endswith("attn.norm"):
            assert module.eps == 1e-5
            module.eps = 1e-6
    return model


# Outputs, against mmseg's classes. Its patch embeddings pad each stage where ours pads the image, so that the two are
# the same function at multiples of 32 only.

SIZES = [(224, 224), (96, 160), (64, 32)]


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("model_name", MODELS)
def test_mmsegs_checkpoint_gives_mmsegs_outputs(tmp_path: Path, model_name: str, qkv_bias: bool) -> None:
    model = with_timms_epsilon(mmseg_model(model_name, qkv_bias=qkv_bias))
    segmentor = {"state_dict": {**below(model.state_dict(), "backbone."), "decode_head.conv_seg.weight": torch.ones(2)}}
    path = save(segmentor, tmp_path / "a.pth")
    adapter = load_twins(path, model_name, stage_norm=True, window_padding="mmseg")
    for height, width in SIZES:
        batch = image(height, width)
        with torch.no_grad():
            maps = zip(adapter(batch), model(batch), strict=True)
            assert max(relative_difference(ours, theirs) for ours, theirs in maps) < 2e-6


def test_mmsegs_windows_are_asked_for(tmp_path: Path, logged: list[str]) -> None:
    path = save(mmseg_model(SVT).state_dict(), tmp_path / "a.pth")
    load_twins(path, stage_norm=True)
    load_twins(path, stage_norm=True, window_padding="mmseg")
    load_twins(save(mmseg_model(PCPVT).state_dict(), tmp_path / "b.pth"), PCPVT, stage_norm=True)
    assert ["window_padding  'zero' here; 'mmseg' computes what" in line for line in logged] == [True, False, False]


@pytest.mark.parametrize("model_name", MODELS)
def test_timms_checkpoint_gives_the_same_outputs_in_mmseg(model_name: str) -> None:
    """Within 1e-5: the norms of mmseg's blocks have eps 1e-5, timm's 1e-6."""
    reference = twins(model_name)
    model = mmseg_model(model_name, norm_after_stage=False)
    model.load_state_dict(FORMATS["mmseg"].write(reference.state_dict())[0])
    # Where windows of 7 divide every stage's grid the projects' ways to pad do not matter.
    batch = image(224, 224)
    with torch.no_grad():
        theirs = reference.forward_intermediates(batch, intermediates_only=True)
        assert max(relative_difference(a, b) for a, b in zip(model(batch), theirs, strict=True)) < 1e-5


# mmpretrain, whose classes are not installed: its names, and mmseg's outputs.


@pytest.mark.parametrize("model_name", MODELS)
def test_mmpretrains_checkpoints(tmp_path: Path, model_name: str) -> None:
    reference = twins(model_name)
    renamed, _ = FORMATS["mmpretrain"].write(reference.state_dict())
    classifier = {"state_dict": {**below(renamed, "backbone."), "head.fc.weight": torch.ones(1000, 32)}}
    path = save(classifier, tmp_path / "a.pth")
    adapter = load_twins(path, model_name, out_norm=True)
    state = adapter.trunk.state_dict()
    assert_same(state, {key: reference.state_dict()[key] for key in state})
    assert "norm.weight" in state

    model = with_timms_epsilon(mmseg_model(model_name))
    renamed, _ = FORMATS["mmpretrain"].write(FORMATS["mmseg"].read(model.state_dict()))
    path = save({"state_dict": below(renamed, "backbone.")}, tmp_path / "b.pth")
    adapter = load_twins(path, model_name, stage_norm=True, window_padding="mmseg")
    batch = image(96, 160)
    with torch.no_grad():
        maps = zip(adapter(batch), model(batch), strict=True)
        assert max(relative_difference(ours, theirs) for ours, theirs in maps) < 2e-6


# The original code's dense models.


@pytest.mark.parametrize("wrapper", ["", "module.", "backbone."])
def test_the_original_dense_models(tmp_path: Path, wrapper: str) -> None:
    """mmseg's class is the original segmentation code with other names and another epsilon."""
    state = with_norms(twins().state_dict())
    path = save({"state_dict": below(state, wrapper)}, tmp_path / "a.pth")
    adapter = load_twins(path, stage_norm=True, window_padding="mmseg")
    model = with_timms_epsilon(mmseg_model(SVT))
    model.load_state_dict(FORMATS["mmseg"].write(state)[0])
    for height, width in SIZES:
        batch = image(height, width)
        with torch.no_grad():
            maps = zip(adapter(batch), model(batch), strict=True)
            assert max(relative_difference(ours, theirs) for ours, theirs in maps) < 2e-6
