"""Train on images of many sizes with padded and with exact batches, and score each with batches of one and of four.

RetinaNet and Semantic FPN on a small Twins-SVT, from random weights, on generated shapes whose images differ in size
and shape; the same steps and seeds for both. Each checkpoint is then scored with one image in a batch and with four:
with exact batches the two scores are the same. Finished runs are kept; one takes about two minutes on two quiet cores.

    python tools/learn_batch_padding.py
    python tools/learn_batch_padding.py --tasks detection --seeds 0 --stop-after 300
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from tqdm import tqdm

from adapters.describe.tables import to_markdown, to_table
from adapters.files import write_text
from lab.learning.cases import DEPTHS, HEADS, WIDTHS
from lab.learning.check import REPOSITORY, evaluate, train
from lab.results import Results
from lab.shapes import ShapesSettings, make_dataset

CONFIGS = REPOSITORY / "configs"
#: The recipe of each task, and its metric in the log: both in hundredths.
TASKS = {
    "detection": ("detection/retinanet_twins-svt-s_fpn_2k_shapes.py", "coco/bbox_mAP", 100),
    "segmentation": ("segmentation/fpn_swinv2-cr-tiny_2k_shapes.py", "mIoU", 1),
}
#: What a backbone's ``batch_padding`` is in each case.
CASES: Mapping[str, str | None] = {"padded": None, "exact": "exact"}
BATCHES = (1, 4)
#: Channels of the neck and the head, which would otherwise take most of the time.
CHANNELS = 64


@dataclass(frozen=True)
class Budget:
    """The training that every case gets.

    Attributes:
        iterations: steps of four images.
        lr: the largest learning rate.
        images: drawn for training and for validation.
        sides: the least and the greatest side of an image, in pixels.
    """

    iterations: int = 300
    lr: float = 1.2e-3
    images: tuple[int, int] = (300, 80)
    sides: tuple[int, int] = (80, 208)


def make_config(task: str, case: str, budget: Budget, seed: int, data_root: Path) -> Config:
    """Make the config of a training, in which images keep the size that they were drawn at."""
    cfg = Config.fromfile(CONFIGS / TASKS[task][0])
    trunk = dict(embed_dims=WIDTHS, depths=DEPTHS, num_heads=HEADS)
    cfg.model.backbone = dict(type="TimmAdapter", model_name="twins_svt_small", stage_norm=True, trunk=trunk)
    cfg.model.backbone.update(weights=None, batch_padding=CASES[case])
    cfg.model.neck.update(in_channels=list(WIDTHS), out_channels=CHANNELS)
    if task == "detection":
        cfg.model.bbox_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
        cfg.train_dataloader.pop("batch_sampler")  # which would put images of like shape together
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.ann_file = f"{data_root}/annotations/instances_val.json"
    else:
        cfg.model.decode_head.update(in_channels=[CHANNELS] * 4, channels=CHANNELS)
        cfg.model.data_preprocessor.update(size=None, size_divisor=32, test_cfg=dict(size_divisor=32))
    cfg.train_cfg.update(max_iters=budget.iterations, val_interval=budget.iterations)
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = min(warmup.end, budget.iterations // 2)
    decay.end = budget.iterations
    cfg.optim_wrapper.optimizer.lr = budget.lr
    cfg.default_hooks.checkpoint = dict(
        type="CheckpointHook", by_epoch=False, interval=budget.iterations, save_optimizer=False
    )
    cfg.randomness = dict(seed=seed)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{data_root}/"
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.pipeline = [
            dict(type="Resize", scale_factor=1.0)
            if step["type"] == "Resize"
            else step  # predictions ask for the factor
            for step in loader.dataset.pipeline
            if step["type"] not in ("RandomResize", "RandomCrop")
        ]
    return cfg


def run_case(task: str, case: str, budget: Budget, seed: int, out: Path, data_root: Path) -> dict[str, float]:
    """Train a case with a seed; return its scores from 0 to 100, by the images of a batch in evaluation."""
    _, metric, scale = TASKS[task]
    cfg = make_config(task, case, budget, seed, data_root)
    work_dir = out / f"{task}_{case}_{seed}"
    train(cfg, work_dir)
    scores = {}
    for size in BATCHES:
        if size > 1 and task == "segmentation" and case == "padded":
            continue  # mmseg's preprocessor refuses images of several sizes there
        cfg.test_dataloader.batch_size = size
        found = evaluate(cfg, work_dir / f"iter_{budget.iterations}.pth", out / f"{work_dir.name}_by_{size}")
        scores[str(size)] = round(scale * found[metric], 3)
    return scores


def rows(results: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Make a line of the table for each task and case that has results."""
    table = []
    for task in TASKS:
        for case in CASES:
            scores = [held for key, held in results.items() if key.startswith(f"{task} {case} seed ")]
            if scores:
                one, four = ([score[str(size)] for score in scores if str(size) in score] for size in BATCHES)
                table.append(
                    {
                        "task": f"{task}, {TASKS[task][1].rpartition('_')[2]}",
                        "batches": case,
                        "one by one": " ".join(f"{score:.1f}" for score in one),
                        "mean": round(statistics.mean(one), 2),
                        "by fours": round(statistics.mean(four), 2) if four else None,
                        "largest difference": round(max(map(_apart, one, four)), 3) if four else None,
                    }
                )
    return table


def _apart(one: float, other: float) -> float:
    return abs(one - other)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what has no result yet, show the table and write it."""
    args = parse_args(arguments)
    started = time.monotonic()
    budget = Budget(iterations=args.iterations, images=tuple(args.images))
    out = args.out.resolve()
    kept = Results(out / "results.json", {"budget": asdict(budget)})
    data_root = out / "shapes"
    make_dataset(data_root, ShapesSettings(*budget.images, size_range=budget.sides))
    wanted = [(task, case, seed) for seed in args.seeds for task in args.tasks for case in CASES]
    for task, case, seed in tqdm(wanted, dynamic_ncols=True, disable=None):
        key = f"{task} {case} seed {seed}"
        if key not in kept.by_name and time.monotonic() - started < args.stop_after:
            kept.add(key, run_case(task, case, budget, seed, out, data_root))
    table = rows(kept.by_name)
    write_text(out / "results.md", to_markdown(table) + "\n")
    Console(width=None if sys.stdout.isatty() else 200).print(to_table(table))
    print(f"written: {out}/results.md")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="default: both")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--iterations", type=int, default=Budget.iterations, help="steps of each run (default: %(default)s)")
    add("--images", nargs=2, type=int, default=Budget.images, metavar=("TRAIN", "VAL"), help="images to draw")
    add("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="begin no training after that")
    add("--out", type=Path, default=Path("work_dirs/batch_padding"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)
