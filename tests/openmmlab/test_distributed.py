"""Several machines: two gloo processes, started by the Slurm script as on two nodes, learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.shapes import ShapesSettings, make_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 3

# Nothing here depends on how a batch is spread: layer and group norms, no dropout, images of one size in a fixed order.
CONFIG = """
_base_ = [
    "{repository}/configs/_base_/models/semantic_fpn.py",
    "{repository}/configs/_base_/datasets/shapes_semantic.py",
    "{repository}/configs/_base_/runtime/segmentation.py",
]
custom_imports = dict(imports=["adapters", "record_loss"])
custom_hooks = [dict(type="RecordLoss")]
randomness = dict(seed=3)
norm_cfg = dict(type="GN", num_groups=4)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        model_name="twins_svt_small",
        stage_norm=True,
        trunk=dict(depths=[2, 2, 2, 2], embed_dims=[16, 32, 64, 128]),
    ),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    decode_head=dict(in_channels=[32, 32, 32, 32], channels=16, dropout_ratio=0.0, norm_cfg=norm_cfg),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(64, 64), keep_ratio=False),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False),
    dataset=dict(data_root="{data_root}", pipeline=train_pipeline),
)
train_cfg = dict(type="IterBasedTrainLoop", max_iters={steps})
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=1.0))
"""

# Every process logs the loss of its own images; this one writes the mean over all.
RECORD_LOSS = """
import json
from pathlib import Path
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class RecordLoss(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs["loss"].detach().clone()
        all_reduce(loss, "mean")
        if is_main_process():
            with Path(runner.work_dir, "losses.jsonl").open("a") as file:
                print(json.dumps([loss.item(), get_world_size(), len(data_batch["inputs"])]), file=file)
"""

# What Slurm gives to a script: srun starts one task on every node, here all on this machine.
SRUN = """#!/usr/bin/env bash
for node in 0 1; do SLURM_NODEID=$node "$@" & done
wait -n && wait -n
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames fake[0-1]" ] && printf '127.0.0.1\\nelsewhere\\n'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "shapes", ShapesSettings(train=12, val=1, size_range=(64, 64)))
    text = CONFIG.format(repository=REPOSITORY, data_root=tmp_path / "shapes", steps=STEPS)
    (tmp_path / "tiny.py").write_text(text)
    (tmp_path / "record_loss.py").write_text(RECORD_LOSS)
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    return tmp_path


def run(folder: Path, command: list[str], **variables: str) -> list[list[float]]:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        **variables,
    }
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    work_dir = folder / command[command.index("--work-dir") + 1]
    return [json.loads(line) for line in (work_dir / "losses.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_nodes_of_one_process_learn_as_one_with_twice_the_batch(folder: Path) -> None:
    train = str(REPOSITORY / "tools" / "train.py")
    alone = run(
        folder,
        [sys.executable, train, "tiny.py", "--work-dir", "alone", "--cfg-options", "train_dataloader.batch_size=4"],
    )
    slurm = {
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "fake[0-1]",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    script = str(REPOSITORY / "tools" / "slurm_train.sh")
    options = ["--work-dir", "together", "--cfg-options", "train_dataloader.batch_size=2"]
    together = run(folder, [script, "tiny.py", *options], **slurm)
    assert [entry[1:] for entry in alone] == [[1, 4]] * STEPS
    assert [entry[1:] for entry in together] == [[2, 2]] * STEPS
    losses = [entry[0] for entry in alone]
    assert [entry[0] for entry in together] == pytest.approx(losses, rel=1e-5)
    assert len({round(loss, 3) for loss in losses}) == STEPS  # it learns, so later losses compare the steps too


def test_the_slurm_script_says_how_it_is_called(tmp_path: Path) -> None:
    script = str(REPOSITORY / "tools" / "slurm_train.sh")
    result = subprocess.run([script], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "usage: sbatch" in result.stderr
    result = subprocess.run([script, "tiny.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1
    assert "run this with sbatch" in result.stderr
