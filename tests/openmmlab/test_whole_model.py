"""Reading whole models from files: containers and wrappers, nothing that runs, and what a file seems to be."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from small_detectors import build, resnet_segmentor, retinanet
from torch import nn

from adapters.openmmlab.whole_model import (
    backbone_remedy,
    describe_contents,
    read_as_mmengine,
    read_model,
    read_run,
)

STATE = {"backbone.a": torch.ones(2), "neck.b": torch.zeros(3, dtype=torch.int64)}
RUN = {"meta": {"epoch": 2, "iter": 7}, "message_hub": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}}


def save(contents: Any, folder: Path) -> str:
    torch.save(contents, folder / "file.pth")
    return str(folder / "file.pth")


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("container", ["state_dict", "model", None])
def test_the_tensors_of_a_model_wherever_they_lie(wrapper: str, container: str | None, tmp_path: Path) -> None:
    state = {f"{wrapper}{key}": value for key, value in STATE.items()}
    contents = read_model(save({container: state, "step": 3} if container else state, tmp_path))
    assert list(contents["state_dict"]) == list(STATE)
    assert all(torch.equal(contents["state_dict"][key], value) for key, value in STATE.items())
    assert (contents.get("step") == 3) is bool(container)


def test_safetensors_and_the_versions_of_modules(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "file.safetensors")
    assert set(read_model(str(tmp_path / "file.safetensors"))["state_dict"]) == set(STATE)
    versioned = nn.Sequential(nn.BatchNorm2d(2)).state_dict()
    assert read_model(save({"state_dict": versioned}, tmp_path))["state_dict"]._metadata["0"] == {"version": 2}


def test_a_file_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"file\.pth holds no tensors .*'state_dict'; its keys are: epoch, loss\."):
        read_model(save({"epoch": 3, "loss": [0.1]}, tmp_path))
    with pytest.raises(ValueError, match=r"^'http://127\.0\.0\.1:1/x\.pth' could not be downloaded"):
        read_model("http://127.0.0.1:1/x.pth")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("read", [read_model, read_run, read_as_mmengine])
def test_nothing_in_a_file_runs(read: Any, tmp_path: Path) -> None:
    path = save({**RUN, "state_dict": STATE, "optimizer": Hostile(tmp_path / "made")}, tmp_path)
    with suppress(ValueError):  # it is refused, or read past
        assert list(read(path)["state_dict"]) == list(STATE)
    assert not (tmp_path / "made").exists()


def test_the_state_of_a_run(tmp_path: Path) -> None:
    path = save({**RUN, "state_dict": STATE, "meta": {**RUN["meta"], "config": "import antigravity"}}, tmp_path)
    contents = read_run(path)
    assert contents["meta"] == RUN["meta"]  # mmengine would run the text
    assert isinstance(contents["message_hub"]["loss"], HistoryBuffer)
    published = save({"state_dict": STATE, "meta": {"epoch": 2}}, tmp_path)
    with pytest.raises(ValueError, match=r"cannot be resumed: .*\(iter, message_hub\).*load_from=.*file\.pth"):
        read_run(published)


RECORDED = """
custom = __import__("os").getcwd()
model = dict(backbone=dict(model_name='resnet50', type='TimmAdapter'), type='FCOS')
"""


@pytest.mark.parametrize(
    ("names", "meta", "expected"),
    [
        (["backbone.x"], {"cfg": RECORDED}, "a model of type FCOS with the backbone resnet50"),
        (["backbone.x"], {"cfg": "model = dict(type='FCOS')"}, "a model of type FCOS"),
        (["backbone.x"], {"cfg": "model = ("}, "the backbone of a model, alone"),
        (["backbone.x", "neck.y", "rpn_head.z"], {}, "a whole model of the parts backbone, neck, rpn_head"),
        (["conv1.x", "fc.weight"], {}, r"a classifier, .*its names: conv1\.x, fc\.weight"),
        (["u.0", "v.1"], None, r"another model \(its names: u\.0, v\.1"),
    ],
)
def test_what_a_checkpoint_seems_to_be(names: list[str], meta: Any, expected: str) -> None:
    contents = {"state_dict": dict.fromkeys(names, torch.ones(1)), "meta": meta}
    assert re.match(expected, describe_contents(contents, nn.Module()))


def test_a_bare_backbone_is_told_where_it_belongs() -> None:
    ours = build(retinanet())
    contents = {"state_dict": ours.backbone.trunk.state_dict()}
    assert describe_contents(contents, ours).startswith("a backbone alone, not a whole model")
    assert backbone_remedy(contents, ours, "x.pth").endswith("`--cfg-options model.backbone.weights=x.pth`.")
    assert backbone_remedy({"state_dict": STATE}, ours, "x.pth") == ""
    theirs = build(resnet_segmentor())
    remedy = backbone_remedy({"state_dict": theirs.backbone.state_dict()}, theirs, "x.pth")
    assert "model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=x.pth" in remedy
