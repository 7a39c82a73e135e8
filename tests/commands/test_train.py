"""``dense-adapters train`` and ``test`` on a tiny drawn dataset: training, resuming after a kill, mixed precision,
several processes, and the errors."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from small_runs import DETECTION, REPOSITORY, SEGMENTATION, TRUNK
from zoo import randomise

import adapters
from adapters.commands import test, train
from adapters.openmmlab.checkpoint_hook import latest_checkpoint
from adapters.openmmlab.run import load_config
from adapters.openmmlab.run import test as run_test


def records(work_dir: Path | str) -> list[dict[str, Any]]:
    """What the newest run in a work directory logged, one record a line."""
    newest = max(Path(work_dir).glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def log(work_dir: Path | str) -> str:
    return max(Path(work_dir).glob("*/*.log")).read_text()


@pytest.mark.slow
def test_a_trained_checkpoint_tests_to_the_same_score(config: Any) -> None:
    arguments = [config(SEGMENTATION), "--backbone", "test_convnext"]
    train.main([*arguments, "--work-dir", "run"])
    trained = records("run")[-1]
    assert trained["mIoU"] > 0
    assert "model.backbone: ResNet (stride 4: 64 channels" in log("run")
    assert "model.decode_head.in_channels: [64, 128, 256, 512] ->" in log("run")
    cfg, notes = load_config(arguments[0], backbone="test_convnext", work_dir="test")
    metrics = run_test(cfg, notes, "run/iter_4.pth")
    assert metrics == pytest.approx({key: trained[key] for key in ("aAcc", "mIoU", "mAcc")}, abs=1e-6)
    assert not re.search("unexpected key|missing key", log("test"))


@pytest.mark.slow
def test_mixed_precision_pyramid_and_overrides_on_the_cpu(config: Any) -> None:
    path = config(DETECTION)
    overrides = ["train_cfg.max_iters=2", "model.backbone.drop_path_rate=0.25", "optim_wrapper.accumulative_counts=2"]
    train.main([path, "--backbone", "test_vit", "--amp", "--auto-scale-lr", "--cfg-options", *overrides,
                  "auto_scale_lr.base_batch_size=1"])  # fmt: skip
    text = log("work_dirs/tiny")  # the default folder
    assert "no GPU here: mixed precision is bfloat16 on the CPU (CpuAmpOptimWrapper)" in text
    assert "SimpleFeaturePyramid" in text
    assert "drop_path_rate=0.25" in text
    first, second, *_ = records("work_dirs/tiny")
    assert second["iter"] == 2
    assert first["lr"] == pytest.approx(2e-4)  # two images a step, a rate for one
    dumped = Config.fromfile("work_dirs/tiny/tiny.py")
    assert dumped.model.backbone.drop_path_rate == 0.25
    assert dumped.custom_imports.imports == ["adapters"]


@pytest.mark.slow
def test_a_killed_run_goes_on_without_its_pretrained_weights(config: Any) -> None:
    path = config(DETECTION)
    weights = Path("trunk.pth")
    torch.save(adapters.create_adapter("twins_svt_small", trunk=TRUNK).trunk.state_dict(), weights)
    options = [
        path,
        "--work-dir",
        "run",
        "--cfg-options",
        f"model.backbone.weights={weights}",
        "train_cfg.max_iters=400",
    ]
    command = [sys.executable, str(REPOSITORY / "tools" / "train.py"), *options]
    with open("killed.txt", "w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        deadline = time.monotonic() + 240
        while not Path("run/iter_4.pth").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, Path("killed.txt").read_text()
        process.send_signal(signal.SIGKILL)
    weights.unlink()  # a resumed run must not ask for it
    last = int(re.search(r"iter_(\d+)", str(latest_checkpoint("run")))[1])
    time.sleep(1)  # mmengine names logs by the second
    train.main([*options[:-1], f"train_cfg.max_iters={last + 2}", "--resume"])
    text = log("run")
    assert re.search(rf"resuming from .*iter_{last}.pth", text)
    assert "pretrained weights set aside" in text
    assert "trunk.pth" in text
    assert [record["iter"] for record in records("run") if "loss" in record] == [last + 1, last + 2]


@pytest.mark.slow
def test_two_processes_on_the_cpu_without_unused_parameters(config: Any) -> None:
    path = config(SEGMENTATION)  # its SyncBN needs a GPU
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = str(REPOSITORY / "tools" / "dist_train.sh")
    command = [
        script,
        path,
        "2",
        "--backbone",
        "test_vit",
        "--work-dir",
        "run",
        "--cfg-options",
        "train_cfg.max_iters=2",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"\d+ norms of type SyncBN.* are BN", log("run"))
    assert re.search(r"^ *GPU number: 2$", log("run"), re.MULTILINE)  # mmengine's word for processes
    assert "find_unused_parameters=False" in log("run")
    assert 0 < records("run")[-1]["mIoU"] <= 100


def test_a_mistake_is_one_line_and_exit_code_1(
    config: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = str(REPOSITORY / "tools" / "train.py")
    monkeypatch.setattr(sys, "argv", [tool, config(DETECTION), "--backbone", "twins_svt_smal"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(tool, run_name="__main__")
    assert ended.value.code == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert "twins_svt_smal" in message
    assert "twins_svt_small" in message


def test_without_mmengine_the_pip_command() -> None:
    code = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "mmengine":
            raise ModuleNotFoundError("No module named 'mmengine'", name="mmengine")
sys.meta_path.insert(0, Absent())
for name in ("train.py", "test.py"):
    sys.argv = ["tool", "x.py", *["y.pth"][: name == "test.py"]]
    try:
        runpy.run_path({str(REPOSITORY / "tools")!r} + "/" + name, run_name="__main__")
    except SystemExit as ended:
        print(ended.code)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert result.stdout.split() == ["1", "1"]
    for name, line in zip(("train", "test"), result.stderr.splitlines(), strict=True):
        assert re.match(rf"error: dense-adapters {name} needs mmengine.*pip install", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], r"there is no config 'nowhere.py'"),
        (["tiny.py", "--resume", "nowhere.pth"], r"there is no checkpoint 'nowhere.pth'"),
        (["tiny.py", "--auto-scale-lr"], r"--auto-scale-lr needs.*base_batch_size"),
        (["tiny.py", "--cfg-options", "default_scope=mmrotate"], r"default_scope='mmrotate'.*mmdet, mmseg"),
        (
            ["tiny.py", "--cfg-options", "model.neck.in_channels=[1,2,3,4]"],
            r"model\.neck\.in_channels=\[1, 2, 3, 4\].*\[16, 32, 64, 128\]",
        ),
        (["tiny.py", "--cfg-options", "model.backbone.out_indices=(0,4)"], r"out_indices=\(0, 4\).*-4\.\.3"),
        (["tiny.py", "--amp", "--cfg-options", "optim_wrapper.type=OptimWrapperDict"], "'OptimWrapperDict'"),
    ],
)
def test_mistakes_are_found_before_the_run_starts(config: Any, arguments: list[str], message: str) -> None:
    config(DETECTION)
    with pytest.raises(ValueError, match=message):
        train.main(arguments)
    assert not Path("work_dirs").exists()


def test_missing_data_names_the_command(config: Any) -> None:
    config(DETECTION)
    with pytest.raises(FileNotFoundError, match=r"python \S+/tools/make_shapes.py --out nowhere"):
        train.main(["tiny.py", "--cfg-options", "train_dataloader.dataset.data_root=nowhere/"])
    with pytest.raises(ValueError, match=r"there is no checkpoint 'nowhere\.pth'"):
        test.main(["tiny.py", "nowhere.pth"])


def test_a_record_of_a_checkpoint_that_is_gone(config: Any) -> None:
    config(DETECTION)
    Path("run").mkdir()
    Path("run/last_checkpoint").write_text("/elsewhere/iter_2.pth")
    with pytest.raises(ValueError, match=r"last_checkpoint names /elsewhere/iter_2.pth, which does not exist"):
        train.main(["tiny.py", "--work-dir", "run", "--resume"])


@pytest.mark.slow
def test_a_training_starts_from_a_whole_model_offline(config: Any) -> None:
    path = config(DETECTION)
    state = randomise(MODELS.build(load_config(path)[0].model)).state_dict()
    torch.save({"state_dict": state}, "whole.pth")
    torch.save({"state_dict": {key: value for key, value in state.items() if "backbone" not in key}}, "heads.pth")
    options = ["train_cfg.max_iters=1", "model.backbone.weights=/nowhere.pth", "optim_wrapper.optimizer.lr=0.0"]
    options += ["optim_wrapper.optimizer.weight_decay=0.0", "model.bbox_head.num_classes=6"]
    train.main([path, "--work-dir", "run", "--cfg-options", *options, "load_from=whole.pth"])
    trained = torch.load("run/iter_1.pth", weights_only=False)["state_dict"]
    assert all(torch.equal(trained[key], value) for key, value in state.items())
    assert "pretrained weights set aside, whole.pth replaces them: /nowhere.pth" in log("run")
    with pytest.raises(ValueError, match=r"'/nowhere\.pth' is no file"):  # the backbone's own are still needed
        train.main([path, "--work-dir", "rest", "--cfg-options", *options, "load_from=heads.pth"])
    assert "start from their initial or pretrained weights: backbone 72 of 72" in log("rest")


@pytest.mark.slow
def test_a_start_from_nothing_that_fits_is_refused(config: Any) -> None:
    path = config(DETECTION)
    torch.save({"state_dict": {"decode_head.conv_seg.weight": torch.ones(7, 16, 1, 1)}}, "other.pth")
    with pytest.raises(ValueError, match=r"load_from=other\.pth is no start for this RetinaNet: 0 of the model's 96 "):
        train.main([path, "--cfg-options", "load_from=other.pth"])
    with pytest.raises(
        ValueError, match=r"other\.pth cannot be resumed: it holds a model without the state of its run"
    ):
        train.main([path, "--resume", "other.pth"])
    assert not Path("work_dirs").exists()
