"""Train a small model from nothing on the dataset of shapes, score it and draw its predictions.

    python tools/demo.py --task segmentation

`make demo` and `make seg-demo` run this after set-up. Everything lands in work_dirs/demo or work_dirs/seg-demo:
`predictions.png`, `curve.png`, the log and the checkpoint. Exits with 1 when the score is below the floor.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from adapters.commands.quiet import quiet
from adapters.openmmlab.data_check import check_dataset
from lab.demo.pictures import draw_curve, draw_predictions
from lab.shapes import ShapesSettings, make_dataset

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Task:
    """A recipe to train, and the score that it must reach.

    Attributes:
        config, work_dir: relative to the repository.
        metrics: the table's figures, name in the log to name for people; the first is compared with the floor.
        percent: whether the log gives the metrics in percent.
    """

    config: str
    work_dir: str
    metrics: dict[str, str]
    floor: float
    percent: bool = False


TASKS = {
    "detection": Task(
        config="configs/detection/retinanet_twins-svt-s_fpn_demo_shapes.py",
        work_dir="work_dirs/demo",
        metrics={
            "coco/bbox_mAP_50": "box AP50",
            "coco/bbox_mAP": "box AP",
            "coco/bbox_mAP_75": "box AP75",
        },
        floor=0.60,
    ),
    "segmentation": Task(
        config="configs/segmentation/fpn_swinv2-cr-tiny_demo_shapes.py",
        work_dir="work_dirs/seg-demo",
        metrics={"mIoU": "mIoU", "mAcc": "mean class accuracy", "aAcc": "pixel accuracy"},
        floor=0.60,
        percent=True,
    ),
}


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tuple(TASKS), default="detection", help="default: %(default)s")
    return parser.parse_args(arguments)


def train(task: Task) -> tuple[Runner, list[dict[str, float]]]:
    """Train as tools/train.py does; return the runner, and the run's log as a list of records."""
    cfg = Config.fromfile(task.config)
    cfg.work_dir = task.work_dir
    check_dataset(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = Path(runner.log_dir) / "vis_data" / "scalars.json"
    return runner, [json.loads(line) for line in scalars.read_text().splitlines()]


def final_scores(task: Task, records: list[dict[str, float]]) -> dict[str, float]:
    """Return the metrics of the last validation, from 0 to 1, by their names in the log."""
    last = [record for record in records if next(iter(task.metrics)) in record][-1]
    return {name: last[name] / (100 if task.percent else 1) for name in task.metrics}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the dataset, train, show the scores, and draw the pictures."""
    task = TASKS[parse_args(arguments).task]
    os.chdir(REPOSITORY)  # the paths of the configs are relative to it
    start = time.monotonic()
    make_dataset(Path("data/shapes"), ShapesSettings())
    with quiet():
        runner, records = train(task)
    scores = final_scores(task, records)

    work_dir = Path(task.work_dir)
    draw_predictions(runner, work_dir / "predictions.png")
    metric, title = next(iter(task.metrics.items()))
    draw_curve(records, metric, title, scores[metric] / records[-1][metric], work_dir / "curve.png")

    reached = scores[metric] >= task.floor
    table = Table(title=f"{task.config}, validation")
    table.add_column("metric")
    table.add_column("score", justify="right")
    for name, score in scores.items():
        table.add_row(task.metrics[name], f"{score:.3f}")
    console = Console()
    console.print(table)
    console.print(f"{time.monotonic() - start:.0f} s; pictures: {work_dir}/predictions.png, {work_dir}/curve.png")
    if not reached:
        console.print(f"{title} {scores[metric]:.3f} is below the floor of {task.floor:.2f}.", style="bold red")
    return 0 if reached else 1
