"""Train the cases in the same recipe, each in a process of its own, and judge the scores that they reach."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.models import SwinTransformer  # noqa: F401, registers the native class that stands beside ours
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.utils import register_all_modules

from adapters.describe.counting import count_parameters
from lab.learning.cases import MARGIN, Case
from lab.shapes import ShapesSettings, make_dataset

REPOSITORY = Path(__file__).resolve().parents[3]
RECIPE = REPOSITORY / "configs" / "segmentation" / "fpn_swinv2-cr-tiny_demo_shapes.py"
TRAIN = REPOSITORY / "tools" / "train.py"
TEST = REPOSITORY / "tools" / "test.py"
METRIC = "mIoU"

Result = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """The training that every case gets: results of different budgets are not kept side by side.

    Attributes:
        iterations: steps of ``batch_size`` crops.
        lr: the largest learning rate.
        seed: of weights and data.
        images: drawn for training and for validation.
    """

    iterations: int = 400
    batch_size: int = 4
    lr: float = 4e-4
    seed: int = 0
    images: tuple[int, int] = (600, 80)


def make_config(case: Case, budget: Budget, data_root: Path) -> Config:
    """Make the recipe with a case's backbone, for the budget."""
    cfg = Config.fromfile(RECIPE)
    cfg.model.backbone = dict(case.backbone)
    cfg.model.neck.in_channels = list(case.channels)
    cfg.custom_imports = dict(imports=["adapters", "mmdet.models"], allow_failed_imports=False)
    cfg.train_cfg.update(max_iters=budget.iterations, val_interval=budget.iterations)
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = min(warmup.end, budget.iterations // 2)
    decay.end = budget.iterations
    cfg.optim_wrapper.optimizer.lr = budget.lr
    cfg.train_dataloader.batch_size = budget.batch_size
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=-1, save_last=False)
    cfg.randomness = dict(seed=budget.seed)
    cfg.data_root = f"{data_root}/"
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{data_root}/"
    return cfg


def run_case(case: Case, budget: Budget, out: Path, data_root: Path) -> Result:
    """Train a case from nothing; return what it reached, its size and its time.

    Raises:
        ValueError: the training failed; the end of its output is in the message.
    """
    start = time.monotonic()
    records = train(make_config(case, budget, data_root), out / case.name.replace(" ", "_"))
    losses = [record["loss"] for record in records if "loss" in record]
    (score,) = [record[METRIC] / 100 for record in records if METRIC in record]
    return {
        "mIoU": round(score, 4),
        "loss": losses[-1],
        "parameters": count_backbone(case.backbone),
        "seconds": round(time.monotonic() - start),
    }


def train(cfg: Config, work_dir: Path, resume: bool = False) -> list[dict[str, Any]]:
    """Train a config in a fresh process; return the records of its logs.

    Args:
        cfg: the config; its checkpoint hook decides from where a training that was stopped can go on.
        work_dir: emptied, unless a training of the very config goes on in it.
        resume: go on from the last checkpoint of the same config, where there is one.

    Raises:
        ValueError: the training failed; the end of its output is in the message.
    """
    path = work_dir.with_name(f"{work_dir.name}.py")  # beside the folder, in which the Runner writes its own reading
    if not (resume and path.exists() and path.read_text() == cfg.pretty_text):
        shutil.rmtree(work_dir, ignore_errors=True)
    _run(TRAIN, cfg, work_dir, *(["--resume"] if resume else []))
    logs = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def evaluate(cfg: Config, checkpoint: Path, work_dir: Path) -> dict[str, Any]:
    """Evaluate a checkpoint on a config's test split in a fresh process; return the metrics.

    Args:
        cfg: the config.
        checkpoint: of its model.
        work_dir: emptied.

    Raises:
        ValueError: the evaluation failed; the end of its output is in the message.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    _run(TEST, cfg, work_dir, str(checkpoint))
    (log,) = work_dir.glob("*/*.json")
    metrics: dict[str, Any] = json.loads(log.read_text())
    return metrics


def _run(tool: Path, cfg: Config, work_dir: Path, *arguments: str) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    path = work_dir.with_name(f"{work_dir.name}.py")
    cfg.dump(path)
    run = subprocess.run(
        [sys.executable, str(tool), str(path), *arguments, "--work-dir", str(work_dir)],
        cwd=REPOSITORY,
        env=dict(os.environ, OMP_WAIT_POLICY="PASSIVE"),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise ValueError(f"tools/{tool.name} failed in {work_dir}:\n{(run.stderr or run.stdout)[-2000:]}")


def count_backbone(backbone: Mapping[str, Any]) -> int:
    """Count the parameters of a case's backbone."""
    register_all_modules(init_default_scope=False)
    with torch.random.fork_rng(devices=[]):
        return count_parameters(MODELS.build(dict(backbone)))


def judge(case: Case, results: Mapping[str, Result]) -> str:
    """Say what is wrong with a case's result; nothing, if it is right."""
    score = results[case.name]["mIoU"]
    if score < case.floor:
        return f"below its floor of {case.floor:.2f}"
    beside = results.get(case.native or "")
    if beside is not None and score < beside["mIoU"] - MARGIN:
        return f"more than {MARGIN:.2f} below {case.native}"
    return ""


def rows(cases: Sequence[Case], results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Make a line of the table for each finished case."""
    return [
        {
            "backbone": case.name,
            "parameters (M)": round(results[case.name]["parameters"] / 1e6, 1),
            "mIoU": results[case.name]["mIoU"],
            "floor": case.floor,
            "beside": _beside(case, results),
            "seconds": results[case.name]["seconds"],
            "verdict": judge(case, results) or "ok",
        }
        for case in cases
        if case.name in results
    ]


def _beside(case: Case, results: Mapping[str, Result]) -> str:
    native = case.native
    return f"{native} {results[native]['mIoU']}" if native is not None and native in results else ""


def prepare_data(budget: Budget, out: Path) -> Path:
    """Draw the dataset that all cases share, unless it is there; return its folder."""
    folder = out / "shapes"
    make_dataset(folder, ShapesSettings(train=budget.images[0], val=budget.images[1]))
    return folder
