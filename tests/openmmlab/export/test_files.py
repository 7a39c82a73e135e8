"""Files of whole models: written, verified, described, and run where there is no torch."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import small_exports
import torch
from lab.heads.predictions import compare, predict
from mmengine.config import Config
from mmengine.model import BaseModule

from adapters.export import open_file
from adapters.export.verification import DifferenceError
from adapters.openmmlab.export import files
from adapters.openmmlab.export.files import export_model, load_model

CLASSES = ["car", "bus", "van"]


@pytest.fixture(scope="module")
def cfg() -> Config:
    cfg = small_exports.config(small_exports.STAGES["Mask R-CNN"])
    pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(160, 96), keep_ratio=True)]
    cfg.test_dataloader = dict(dataset=dict(type="CocoDataset", pipeline=pipeline, metainfo=dict(classes=CLASSES)))
    return cfg


@pytest.fixture(scope="module")
def model(cfg: Config) -> Any:
    return small_exports.build(cfg)


@pytest.fixture(scope="module")
def detector(cfg: Config, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask R-CNN as three ONNX files."""
    path = tmp_path_factory.mktemp("exported") / "detector.onnx"
    checks, notes = export_model(cfg, model, path)
    assert notes == []
    assert list(checks) == ["detector.onnx", "detector.boxes.onnx", "detector.masks.onnx"]
    assert all(check.worst < 1e-4 and len(check.rows) == 6 for check in checks.values())
    return path


def test_the_file_says_how_it_is_used(detector: Path) -> None:
    metadata = open_file(detector).metadata
    assert metadata["classes"] == CLASSES
    assert metadata["task"] == "instances"
    assert metadata["images"] == {
        "mean": [120.0] * 3,
        "std": [60.0] * 3,
        "channel_order": "BGR",
        "size_divisor": 32,
        "padded_size": None,
        "pad_value": 0.0,
        "test": [{"type": "resize", "scale": [160, 96], "keep_ratio": True}],
    }
    assert {file.name for file in detector.parent.iterdir()} == {
        *(f"detector{part}.onnx{check}" for part in ("", ".boxes", ".masks") for check in ("", ".check.md")),
        "decoding",
    }


def test_it_runs_without_torch(detector: Path, model: Any, tmp_path: Path) -> None:
    """The folder beside the file is used as a user does, in a process in which nothing of ours can be imported."""
    image = np.random.default_rng(0).integers(0, 256, (70, 111, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    script = f"""
        import sys
        for name in ("torch", "adapters", "mmdet", "mmcv", "mmengine", "timm"):
            sys.modules[name] = None
        sys.path.insert(0, {str(detector.parent)!r})
        import numpy as np
        from decoding import load
        model = load({str(detector)!r})
        found = model(np.load("image.npy"), resize=False)
        np.savez("found.npz", **found)
        print(model.classes)
        print(model(np.load("image.npy"))["masks"].shape[1:])
        """
    command = [sys.executable, "-I", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"{CLASSES}\n(70, 111)\n"
    found = dict(np.load(tmp_path / "found.npz"))
    assert len(found["scores"]) > 2
    assert compare(found, predict(model, image, (70, 111)))[0] == []


def test_no_file_is_left_where_one_differs(
    cfg: Config, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_verified

    def fail_at_masks(module: Any, path: Path, **options: Any) -> Any:
        if path.stem.endswith("masks"):
            raise DifferenceError("it differs")
        if path.stem.endswith("boxes"):
            return write(module, path, **options)
        path.write_text("a file")
        return "a check"

    monkeypatch.setattr(files, "write_verified", fail_at_masks)
    with pytest.raises(ValueError, match="it differs"):
        export_model(cfg, model, tmp_path / "detector.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_the_model_does_not_take(tmp_path: Path) -> None:
    cfg = small_exports.config(small_exports.DENSE["RTMDet"])
    with pytest.raises(
        ValueError, match=r"sides are multiples of 32, and size 100 x 96 is none; the next is \(128, 96\)"
    ):
        export_model(cfg, small_exports.build(cfg), tmp_path / "detector.onnx", size=(100, 96))


def test_a_checkpoint_is_loaded_as_for_a_test(cfg: Config, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": CLASSES}}}, path)
    loaded, meta, notes = load_model(cfg, str(path))
    assert meta == {"classes": CLASSES}
    assert "tensors are loaded" in notes[0]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    torch.save({"state_dict": {"backbone.trunk.conv1.weight": model.backbone.trunk.conv1.weight}}, path)
    with pytest.raises(ValueError, match="is no checkpoint of this MaskRCNN"):
        load_model(cfg, str(path))


def test_a_model_of_random_weights_is_initialised(cfg: Config, capsys: pytest.CaptureFixture) -> None:
    """Its parameters are not what was in memory before, and mmengine has no line for each."""
    with mock.patch.object(BaseModule, "init_weights", autospec=True) as init:
        assert load_model(cfg, "random")[2] == ["the weights are random: the file is for a trial"]
    assert init.call_count == 1
    capsys.readouterr()
    load_model(cfg, "random")
    assert "The value is the same" not in "".join(capsys.readouterr())


def test_metadata_are_json(detector: Path) -> None:
    json.dumps(open_file(detector).metadata)
