"""Finding the backbone in a checkpoint: wrappers, containers of training runs, detectors, and what is ambiguous."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import SVT, TWINS, StateDict, assert_holds, below, load_twins, save, twins

import adapters

MODEL = twins().state_dict()
OTHER = twins(seed=4).state_dict()
OWN = below({key: MODEL[key] for key in load_twins(None).trunk.state_dict()}, "trunk.")


WRAPPED: dict[str, Any] = {
    "bare": MODEL,
    "DDP": below(MODEL, "module."),
    "compiled DDP": below(MODEL, "_orig_mod.module."),
    "encoder": below(MODEL, "encoder."),
    "timm's training": {"state_dict": MODEL, "epoch": 3, "arch": SVT, "args": argparse.Namespace(lr=1.0)},
    "the original training": {"model": MODEL, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3},
    "averaged": {"model_ema": MODEL, "epoch": 3},
    "distilled": {"teacher": below(MODEL, "module.backbone."), "epoch": 3},
    "a detector": {
        "meta": {"epoch": 3},
        "state_dict": {**below(MODEL, "backbone."), "neck.conv.weight": torch.ones(3), "bbox_head.bias": torch.ones(2)},
    },
    "a detector of this package's": {"state_dict": {**below(OWN, "backbone."), "neck.conv.weight": torch.ones(3)}},
    "a DDP detector": {"state_dict": below(OWN, "module.backbone.")},
    "an adapter": OWN,
    "a wrapper of wrappers": {"model": below(MODEL, "net.body.features.")},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_prefixes_and_containers_are_found(tmp_path: Path, kind: str) -> None:
    assert_holds(load_twins(save(WRAPPED[kind], tmp_path / "a.pth")), MODEL)


def test_safetensors_with_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(below(MODEL, "module.backbone."), str(path))
    assert_holds(load_twins(str(path)), MODEL)


def test_the_report_says_where_the_backbone_was(tmp_path: Path, logged: list[str]) -> None:
    path = save(WRAPPED["a detector"], tmp_path / "a.pth")
    load_twins(path)
    (line,) = logged
    assert line == (
        f"{SVT}: loaded 122 of 122 tensors from {path} (timm's names below 'state_dict.backbone.'); "
        "left out 2 (not needed for these maps: norm.weight, norm.bias); "
        "left out 2 (the classifier: head.weight, head.bias); "
        "left out 2 elsewhere in the file (state_dict.neck.*, state_dict.bbox_head.*)"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("backbone.", "other.backbone."), ("encoder_q.", "encoder_k."), ("", "copy."), ("rgb.", "depth.trunk.")],
)
def test_two_backbones_that_fit_are_an_error_that_names_both(tmp_path: Path, first: str, second: str) -> None:
    path = save({"state_dict": {**below(MODEL, first), **below(OTHER, second)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds 2 backbones that fit equally well") as caught:
        load_twins(path)
    assert repr(f"state_dict.{first}") in str(caught.value)
    assert second.removesuffix("trunk.") in str(caught.value)
    assert "init_cfg=dict(type='Pretrained', checkpoint=..., prefix=" in str(caught.value)


@pytest.mark.parametrize("prefix", ["teacher.backbone.", "teacher.backbone", "state_dict.teacher.backbone.", "teacher"])
def test_the_prefix_decides(tmp_path: Path, prefix: str) -> None:
    state = {**below(MODEL, "student.backbone."), **below(OTHER, "teacher.backbone.")}
    path = save({"state_dict": state}, tmp_path / "a.pth")
    adapter = adapters.TimmAdapter(
        SVT, trunk=TWINS, init_cfg={"type": "Pretrained", "checkpoint": path, "prefix": prefix}
    )
    adapter.init_weights()
    assert_holds(adapter, OTHER)


def test_a_prefix_below_which_there_is_nothing(tmp_path: Path) -> None:
    path = save({"state_dict": below(MODEL, "backbone.")}, tmp_path / "a.pth")
    adapter = adapters.TimmAdapter(
        SVT, trunk=TWINS, init_cfg={"type": "Pretrained", "checkpoint": path, "prefix": "encoder."}
    )
    with pytest.raises(
        ValueError, match=r"nothing below prefix='encoder\.'; of .* something below 'state_dict\.backbone\.'"
    ):
        adapter.init_weights()


def test_two_that_hold_the_same_are_not_ambiguous(tmp_path: Path) -> None:
    state = {**below(MODEL, "backbone."), **below(MODEL, "teacher.backbone.")}
    assert_holds(load_twins(save(state, tmp_path / "a.pth")), MODEL)


@pytest.mark.parametrize(
    ("taken", "set_aside"),
    [
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("teacher", "student"),
        ("state_dict", "ema_state_dict"),
    ],
)
def test_averaged_weights_are_taken_and_that_is_said(
    tmp_path: Path, logged: list[str], taken: str, set_aside: str
) -> None:
    """mmengine's swap is the last case: what it saves as ``ema_state_dict`` is what was not averaged."""
    path = save({set_aside: below(OTHER, "module."), taken: below(MODEL, "module.")}, tmp_path / "a.pth")
    assert_holds(load_twins(path), MODEL)
    assert f"left out 1 (second to {taken!r}: {set_aside}.module.)" in logged[0]


def test_containers_of_equal_standing_are_ambiguous(tmp_path: Path) -> None:
    path = save({"model": MODEL, "state_dict": OTHER}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"2 backbones that fit equally well, below 'model\.', 'state_dict\.'"):
        load_twins(path)


def test_the_one_that_fits_better_is_taken(tmp_path: Path) -> None:
    part: StateDict = {key: tensor for key, tensor in OTHER.items() if not key.startswith("blocks.3")}
    assert_holds(load_twins(save({**below(MODEL, "a."), **below(part, "b.")}, tmp_path / "a.pth")), MODEL)


@pytest.mark.parametrize("contents", [{}, {"state_dict": {}}, {"epoch": 3, "meta": {"a": "b"}}])
def test_no_tensors(tmp_path: Path, contents: Any) -> None:
    with pytest.raises(ValueError, match="holds no tensors"):
        load_twins(save(contents, tmp_path / "a.pth"))


def test_another_models_checkpoint(tmp_path: Path) -> None:
    state = {f"layer{stage}.{number}.conv1.weight": torch.ones(3) for stage in range(4) for number in range(3)}
    with pytest.raises(
        ValueError, match=r"0 of 122 tensors match.*It looks like a checkpoint of another model"
    ) as caught:
        load_twins(save({"state_dict": state}, tmp_path / "a.pth"))
    assert "Nothing was loaded" in str(caught.value)
