"""The convert command: every format to every other, the report, and errors in one line."""

import itertools
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_checkpoint
from safetensors.torch import load_file, save_file
from small_checkpoints import (
    PCPVT,
    SVT,
    StateDict,
    below,
    load_twins,
    mmseg_model,
    save,
    timm_model,
    twins,
    vit,
    with_norms,
)

from adapters.commands.convert import main, make_parser
from adapters.weights.file import read_file
from adapters.weights.formats import FORMATS, LEFT_OUT

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"
MODEL = twins().state_dict()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command in this process: its output."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


def tensors(path: Path) -> StateDict:
    contents = read_file(path)
    return dict(contents.get("state_dict", contents))


def assert_same(state: StateDict, expected: StateDict) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())


@pytest.mark.parametrize(
    ("first", "second", "dense"),
    [
        (*pair, dense)
        for pair in itertools.permutations(FORMATS, 2)
        for dense in (False, True)
        if not (dense and "timm" in pair)  # timm has no dense Twins.
    ],
)
def test_every_format_to_every_other_and_back(tmp_path: Path, run, first: str, second: str, dense: bool) -> None:
    state = FORMATS[first].write(with_norms(MODEL) if dense else MODEL)[0]
    save({"state_dict": below(state, "backbone."), "meta": {}}, tmp_path / "a.pth")
    run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", second)
    run(tmp_path / "b.pth", tmp_path / "c.pth", "--to", first)
    assert_same(tensors(tmp_path / "c.pth"), state)


def test_the_report(tmp_path: Path, run) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "b.pth"
    save({"state_dict": {**below(MODEL, "backbone."), "neck.weight": torch.ones(1)}}, source)
    out = run(source, target, "--to", "mmseg")
    lines = out.splitlines()
    assert lines[0].split() == ["from", "to", "shape"]
    rows = {line.split()[0]: line.split()[1] for line in lines[1:] if line.startswith("  ")}
    assert rows["patch_embeds.0.proj.weight"] == "patch_embeds.0.projection.weight"
    assert rows["head.weight"] == "(left"
    fused = next(line for line in lines if "layers.0.1.attn.attn.in_proj_weight" in line)
    assert fused.split() == [
        *("blocks.0.1.attn.q.weight,", "blocks.0.1.attn.kv.weight", "layers.0.1.attn.attn.in_proj_weight"),
        *("(8,", "8)", "+", "(16,", "8)"),
    ]
    assert f"{source}: timm's names below 'state_dict.backbone.'" in lines
    assert f"{target}: {len(tensors(target))} tensors under mmseg's names" in lines
    assert f"no place there for 4, kept aside as '{LEFT_OUT}': norm.weight, norm.bias, head.weight, head.bias" in lines
    assert "note: 1 tensors outside 'state_dict.backbone.' were left behind" in lines


def test_what_was_kept_aside_does_not_disturb_mmengine_or_this_package(
    tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A logger that mmengine makes here would keep writing to this test's standard output.
    monkeypatch.setattr(MMLogger, "_instance_dict", type(MMLogger._instance_dict)())
    save(MODEL, tmp_path / "a.pth")
    run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "mmseg")
    model = mmseg_model(SVT, norm_after_stage=False)
    load_checkpoint(model, str(tmp_path / "b.pth"), strict=True)
    assert torch.equal(model.patch_embeds[0].projection.weight, MODEL["patch_embeds.0.proj.weight"])
    adapter = load_twins(str(tmp_path / "b.pth"), out_norm=True)
    assert torch.equal(adapter.trunk.norm.weight, MODEL["norm.weight"])


def test_the_help_shows_an_example() -> None:
    assert f"{make_parser().prog} twins_svt_small.pth svt_mmseg.pth --to mmseg" in make_parser().format_help()


def test_safetensors_both_ways(tmp_path: Path, run) -> None:
    save_file(MODEL, str(tmp_path / "a.safetensors"))
    out = run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "mmseg")
    assert "no place there for 4, dropped: head.bias, head.weight, norm.bias, norm.weight" in out
    run(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "--to", "timm")
    again = load_file(str(tmp_path / "c.safetensors"))
    assert_same(again, {key: MODEL[key] for key in MODEL if not key.startswith(("norm.", "head."))})


def test_the_epsilon_that_earlier_versions_saved_is_dropped(tmp_path: Path, run) -> None:
    save({**below(MODEL, "trunk."), "norm_eps": torch.tensor(1e-5)}, tmp_path / "a.pth")
    assert "norm_eps" not in run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "timm")
    assert_same(tensors(tmp_path / "b.pth"), MODEL)


def test_other_families_between_timm_and_this_package(tmp_path: Path, run) -> None:
    state = vit().state_dict()
    save({"model": below(state, "module."), "epoch": 1}, tmp_path / "a.pth")
    run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "adapters")
    assert_same(tensors(tmp_path / "b.pth"), below(state, "trunk."))
    run(tmp_path / "b.pth", tmp_path / "c.pth", "--to", "timm")
    assert_same(tensors(tmp_path / "c.pth"), state)


def test_a_pyramid_inside_an_adapter_is_kept_aside(tmp_path: Path, run) -> None:
    pyramid = {"pyramid.0.conv.weight": torch.ones(2, 2)}
    state = {**below(vit().state_dict(), "trunk."), **pyramid}
    save({"state_dict": below(state, "backbone.")}, tmp_path / "a.pth")
    out = run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "timm")
    assert "no place there for 1, kept aside as 'left_out': pyramid.0.conv.weight" in out
    assert_same(tensors(tmp_path / "b.pth"), vit().state_dict())
    run(tmp_path / "b.pth", tmp_path / "c.pth", "--to", "adapters")
    assert_same(tensors(tmp_path / "c.pth"), state)


def test_a_large_head_is_no_backbone(tmp_path: Path, run) -> None:
    state = vit().state_dict()
    heads = {f"head.{number}.weight": torch.ones(1) for number in range(2 * len(state))}
    save({"state_dict": {**below(state, "backbone."), **heads}}, tmp_path / "a.pth")
    run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "adapters")
    assert_same(tensors(tmp_path / "b.pth"), below(state, "trunk."))


def test_a_prefix_chooses(tmp_path: Path, run) -> None:
    other = twins(PCPVT, seed=8).state_dict()
    depth = twins(PCPVT, seed=9).state_dict()
    save({**below(other, "rgb."), **below(depth, "depth.")}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"2 backbones that fit equally well, below 'rgb\.', 'depth\.'"):
        run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "adapters")
    run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "adapters", "--prefix", "depth")
    assert_same(tensors(tmp_path / "b.pth"), below(depth, "trunk."))


def test_errors_of_the_command_are_one_line_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pth").write_text("<html></html>")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(TOOL), "a.pth", "b.pth", "--to", "mmseg"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert "is a web page, not a checkpoint" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth"]


def test_a_model_by_name_reads_what_only_loading_can_and_compares_each_tensor(tmp_path: Path, run) -> None:
    model = timm_model("resnet10t", {}, num_classes=5)
    neck = {"neck.weight": torch.ones(1), "optimizer.state": torch.ones(1)}
    save({"state_dict": {**below(model.state_dict(), "backbone."), **neck}}, tmp_path / "a.pth")
    out = run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "timm", "--model", "resnet10t")
    assert "loaded 84 of 84 tensors" in out
    assert "no tensor was compared" not in out
    bare = timm_model("resnet10t", {}, num_classes=0)
    bare.load_state_dict(tensors(tmp_path / "b.pth"))  # The classifier of five classes is not resnet10t's.
    assert torch.equal(bare.conv1[0].weight, model.conv1[0].weight)
    with pytest.raises(ValueError, match=r"does not fit resnet18.*Nothing was loaded"):
        run(tmp_path / "a.pth", tmp_path / "c.pth", "--to", "timm", "--model", "resnet18")
    assert not (tmp_path / "c.pth").exists()


def test_a_model_by_name_keeps_its_classifier(tmp_path: Path, run) -> None:
    state = timm_model("resnet10t", {}).state_dict()
    save(below(state, "module."), tmp_path / "a.pth")
    run(tmp_path / "a.pth", tmp_path / "b.safetensors", "--to", "timm", "--model", "resnet10t", "--prefix", "module")
    assert_same(load_file(str(tmp_path / "b.safetensors")), state)
    run(tmp_path / "a.pth", tmp_path / "c.pth", "--to", "adapters", "--model", "resnet10t")
    assert_same(tensors(tmp_path / "c.pth"), below(state, "trunk."))
    with pytest.raises(ValueError, match="the model is no Twins, and mmseg's names are for Twins"):
        run(tmp_path / "a.pth", tmp_path / "d.pth", "--to", "mmseg", "--model", "resnet10t")


def test_names_that_were_not_compared_are_told(tmp_path: Path, run) -> None:
    save({"model": below(vit().state_dict(), "teacher.backbone.")}, tmp_path / "a.pth")
    out = run(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "timm", "--prefix", "teacher.backbone")
    assert "note: no tensor was compared with a model's; --model NAME does that" in out
    assert_same(tensors(tmp_path / "b.pth"), vit().state_dict())
