"""Train the cases in the same recipe, each in a process of its own, and judge the scores that they reach."""

import json
import os
import shutil
import statistics
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
#: Seeds of a case, without which one run is hardly told from another.
SEEDS = 3

Result = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """The training that every case gets: results of different budgets are not kept side by side.

    Attributes:
        iterations: steps of ``batch_size`` crops.
        lr: the largest learning rate.
        images: drawn for training and for validation.
    """

    iterations: int = 400
    batch_size: int = 4
    lr: float = 4e-4
    images: tuple[int, int] = (600, 80)


def make_config(case: Case, budget: Budget, seed: int, data_root: Path) -> Config:
    """Make the recipe with a case's backbone, for the budget and a seed of weights and data."""
    cfg = Config.fromfile(RECIPE)
    cfg.model.backbone = dict(case.backbone)
    cfg.model.neck.in_channels = list(case.channels)
    if case.normed:
        cfg.model.neck = [dict(type="LevelLayerNorm", in_channels=list(case.channels)), cfg.model.neck]
    cfg.custom_imports = dict(imports=["adapters", "mmdet.models"], allow_failed_imports=False)
    cfg.train_cfg.update(max_iters=budget.iterations, val_interval=budget.iterations)
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = min(warmup.end, budget.iterations // 2)
    decay.end = budget.iterations
    cfg.optim_wrapper.optimizer.lr = budget.lr
    cfg.train_dataloader.batch_size = budget.batch_size
    # Thrice, and not at the end: there, a validation that was stopped would be passed over.
    every = budget.iterations // 4 + 1
    cfg.default_hooks.checkpoint = dict(
        type="CheckpointHook", by_epoch=False, interval=every, max_keep_ckpts=1, save_last=False
    )
    cfg.randomness = dict(seed=seed)
    cfg.data_root = f"{data_root}/"
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{data_root}/"
    return cfg


def run_case(case: Case, budget: Budget, seed: int, out: Path, data_root: Path) -> Result:
    """Train a case from random weights with a seed, or go on where that was stopped.

    Returns:
        What it reached, its size and its time.

    Raises:
        ValueError: the training failed; the end of its output is in the message.
    """
    start = time.monotonic()
    work_dir = out / f"{case.name.replace(',', '').replace(' ', '_')}_{seed}"
    records = train(make_config(case, budget, seed, data_root), work_dir, resume=True)
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


def result_name(case: Case, seed: int) -> str:
    """Return the name under which the result of a case with a seed is kept."""
    return f"{case.name} seed {seed}"


def scores_of(name: str, results: Mapping[str, Result]) -> list[float]:
    """Return the mIoU of each finished seed of a case."""
    return [held["mIoU"] for key, held in results.items() if key.rpartition(" seed ")[0] == name]


def judge(case: Case, results: Mapping[str, Result]) -> str:
    """Say what is wrong with a case's results; nothing, if they are right.

    A case is lower than its native counterpart beyond the spread where its best seed is below the other's worst: of
    three seeds each, that happens to equals once in twenty times. Of fewer seeds, the means must be ``MARGIN`` apart.
    """
    scores = scores_of(case.name, results)
    if statistics.mean(scores) < case.floor:
        return f"below its floor of {case.floor:.2f}"
    theirs = scores_of(case.native or "", results)
    if not theirs:
        return ""
    if min(len(scores), len(theirs)) >= SEEDS:
        return f"each seed is below each of {case.native}" if max(scores) < min(theirs) else ""
    apart = statistics.mean(scores) < statistics.mean(theirs) - MARGIN
    return f"more than {MARGIN:.2f} below {case.native}" if apart else ""


def rows(cases: Sequence[Case], results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Make a line of the table for each case with a finished seed."""
    table = []
    for case in cases:
        held = [result for key, result in results.items() if key.rpartition(" seed ")[0] == case.name]
        if not held:
            continue
        scores, theirs = scores_of(case.name, results), scores_of(case.native or "", results)
        table.append(
            {
                "backbone": case.name,
                "parameters (M)": round(held[0]["parameters"] / 1e6, 1),
                "mIoU": mean_and_spread(scores),
                "each seed": " ".join(f"{score:.3f}" for score in scores),
                "beside": f"{case.native} {mean_and_spread(theirs)}" if theirs else "",
                "floor": case.floor,
                "seconds": round(statistics.mean(result["seconds"] for result in held)),
                "verdict": judge(case, results) or "ok",
            }
        )
    return table


def mean_and_spread(scores: Sequence[float]) -> str:
    """Write the mean of scores and, of several, their standard deviation."""
    mean = f"{statistics.mean(scores):.3f}"
    return f"{mean} ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else mean


def prepare_data(budget: Budget, out: Path) -> Path:
    """Draw the dataset that all cases share, unless it is there; return its folder."""
    folder = out / "shapes"
    make_dataset(folder, ShapesSettings(train=budget.images[0], val=budget.images[1]))
    return folder
