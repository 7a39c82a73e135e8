"""Train a small model on the dataset of shapes, score it and draw its predictions.

    python tools/demo.py --task segmentation

`make demo` and `make seg-demo` run this after set-up. The detector is trained twice, alike in all but its backbone's
first weights: pretrained on ImageNet, and random. The pretrained ones are those of an installed package, so nothing is
downloaded. Everything lands in work_dirs/demo or work_dirs/seg-demo: `predictions.png`, `curve.png`, the logs and the
checkpoints. Exits with 1 when a score is below the floor, or pretrained weights gain nothing.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from adapters.commands.quiet import quiet
from adapters.openmmlab.data_check import check_dataset
from lab.demo.pictures import draw_curves, draw_predictions
from lab.real_weights.package import find_checkpoint
from lab.shapes import ShapesSettings, make_dataset

REPOSITORY = Path(__file__).resolve().parents[3]
PRETRAINED, RANDOM = "from pretrained weights", "from random weights"

Records = list[dict[str, float]]


@dataclass(frozen=True)
class Task:
    """A recipe to train, and the score that it must reach.

    Attributes:
        config, work_dir: relative to the repository.
        starts: first weights of the backbone, each trained by itself; the first one's score is compared with the floor.
        metrics: the table's figures, name in the log to name for people; the first is compared with the floor.
        percent: whether the log gives the metrics in percent.
    """

    config: str
    work_dir: str
    starts: tuple[str, ...]
    metrics: dict[str, str]
    floor: float
    percent: bool = False


TASKS = {
    "detection": Task(
        config="configs/detection/retinanet_efficientnet-lite0_fpn_demo_shapes.py",
        work_dir="work_dirs/demo",
        starts=(PRETRAINED, RANDOM),
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
        starts=(RANDOM,),
        metrics={"mIoU": "mIoU", "mAcc": "mean class accuracy", "aAcc": "pixel accuracy"},
        floor=0.60,
        percent=True,
    ),
}


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tuple(TASKS), default="detection", help="default: %(default)s")
    return parser.parse_args(arguments)


def train(task: Task, start: str) -> tuple[Runner, Records]:
    """Train as tools/train.py does; return the runner, and the run's log as a list of records."""
    cfg = Config.fromfile(task.config)
    cfg.work_dir = f"{task.work_dir}/{start.replace(' ', '_')}"
    cfg.visualizer.name = start  # under which mmengine keeps the writer of the log
    if start == PRETRAINED:
        cfg.model.backbone.weights = str(find_checkpoint())
    check_dataset(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = Path(runner.log_dir) / "vis_data" / "scalars.json"
    return runner, [json.loads(line) for line in scalars.read_text().splitlines()]


def final_scores(task: Task, records: Records) -> dict[str, float]:
    """Return the metrics of the last validation, from 0 to 1, by their names in the log; zeros where it logged none.

    mmdet logs none where a detector finds nothing in the whole dataset.
    """
    validations = [record for record in records if next(iter(task.metrics)) in record]
    last = validations[-1] if validations else dict.fromkeys(task.metrics, 0.0)
    return {name: last[name] / (100 if task.percent else 1) for name in task.metrics}


def shortcomings(task: Task, scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say what is wrong with the final scores of each start; nothing, if they are right."""
    metric, title = next(iter(task.metrics.items()))
    best = scores[task.starts[0]][metric]
    found = [f"{title} {best:.3f} is below the floor of {task.floor:.2f}."] if best < task.floor else []
    for start in task.starts[1:]:
        if scores[start][metric] >= best:
            found.append(
                f"{title} {best:.3f} {task.starts[0]} is no more than the {scores[start][metric]:.3f} {start}."
            )
    return found


def score_table(task: Task, scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Make the table of the final scores: a column for each start, and what the first gains over the last."""
    table = Table(title=f"{task.config}, validation")
    for heading in ("metric", *task.starts, *(["gain"] if len(task.starts) > 1 else [])):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, title in task.metrics.items():
        values = [scores[start][name] for start in task.starts]
        gain = [f"{values[0] - values[-1]:+.3f}"] if len(values) > 1 else []
        table.add_row(title, *(f"{value:.3f}" for value in values), *gain)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the dataset, train from each start, show the scores, and draw the pictures."""
    task = TASKS[parse_args(arguments).task]
    os.chdir(REPOSITORY)  # the paths of the configs are relative to it
    begin = time.monotonic()
    make_dataset(Path("data/shapes"), ShapesSettings())
    with quiet():
        runs = {start: train(task, start) for start in task.starts}
    scores = {start: final_scores(task, records) for start, (_, records) in runs.items()}

    work_dir = Path(task.work_dir)
    dataset = runs[task.starts[0]][0].val_dataloader.dataset
    draw_predictions(
        {start: runner.model for start, (runner, _) in runs.items()}, dataset, work_dir / "predictions.png"
    )
    metric, title = next(iter(task.metrics.items()))
    curves = {start: records for start, (_, records) in runs.items()}
    draw_curves(curves, metric, title, 0.01 if task.percent else 1.0, work_dir / "curve.png")

    console = Console()
    console.print(score_table(task, scores))
    console.print(f"{time.monotonic() - begin:.0f} s; pictures: {work_dir}/predictions.png, {work_dir}/curve.png")
    wrong = shortcomings(task, scores)
    for line in wrong:
        console.print(line, style="bold red")
    return int(bool(wrong))
