"""Train a detector of small objects on a ViT-Tiny with each pyramid: AP of small objects, and the time of a step.

RetinaNet with anchors of 8 pixels on generated shapes with sides of 4 to 12 pixels, from random weights; the same steps
for all, several seeds each. Finished runs are kept, and one that was stopped goes on from its last checkpoint. A run of
the default budget takes about five minutes on two quiet cores; ``--step-times`` alone takes one, in turns in one
process.

    python tools/learn_small_objects.py
    python tools/learn_small_objects.py --cases simple concat --seeds 0 --iterations 100 --out work_dirs/short
    python tools/learn_small_objects.py --step-times
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from rich.console import Console
from tqdm import tqdm

from adapters.describe.counting import count_parameters
from adapters.describe.tables import to_markdown, to_table
from adapters.files import write_text
from adapters.openmmlab.run import register_scope
from lab.benchmark.measure import seconds_in_turns
from lab.learning.check import REPOSITORY, train
from lab.results import Results
from lab.shapes import ShapesSettings, make_dataset
from lab.synthetic import make_batch

RECIPE = REPOSITORY / "configs" / "detection" / "retinanet_convit-tiny_fpn_2k_shapes.py"
MODEL = "vit_tiny_patch16_224"
METRIC = "coco/bbox_mAP_s"
CHANNELS = 128
STRIDES = (4, 8, 16, 32)
#: Longest and shortest anchor of the finest level, in pixels: 8 to 12.7.
ANCHOR_SCALE = 2

#: The pyramid of each case; the first is what the others stand beside.
CASES: dict[str, dict[str, Any]] = {
    "simple": dict(type="SimpleFeaturePyramid", out_channels=CHANNELS),
    "concat": dict(type="SpatialPrior", mode="concat", out_channels=CHANNELS),
    "concat, wide stem": dict(type="SpatialPrior", mode="concat", out_channels=CHANNELS, stem_channels=32),
    "extract": dict(type="SpatialPrior", mode="extract", out_channels=CHANNELS, stem_channels=32, num_heads=8),
}
#: What is asked of a spatial prior beside the first case.
LEAST_GAIN, MOST_TIME = 1.3, 1.35


@dataclass(frozen=True)
class Budget:
    """The training that every case gets.

    Attributes:
        iterations: steps of ``batch_size`` images.
        batch_size: images of a step.
        lr: the largest learning rate.
        images: drawn for training and for validation.
        side: of each image, in pixels.
    """

    iterations: int = 600
    batch_size: int = 4
    lr: float = 5e-4
    images: tuple[int, int] = (600, 80)
    side: int = 160


def make_config(pyramid: Mapping[str, Any], budget: Budget, seed: int, data_root: Path) -> Config:
    """Make the detector's config with a pyramid."""
    cfg = Config.fromfile(RECIPE)
    out_indices = (11,) if pyramid["type"] == "SimpleFeaturePyramid" else (2, 5, 8, 11)
    cfg.model.backbone = dict(type="TimmAdapter", model_name=MODEL, out_indices=out_indices, pyramid=dict(pyramid))
    cfg.model.neck.update(in_channels=[CHANNELS] * 4, num_outs=4, add_extra_convs=False, start_level=0)
    cfg.model.bbox_head.anchor_generator.update(strides=list(STRIDES), octave_base_scale=ANCHOR_SCALE)
    cfg.model.train_cfg.assigner.pos_iou_thr = 0.4  # a pixel is much of a box of four
    cfg.model.train_cfg.assigner.neg_iou_thr = 0.3
    cfg.train_cfg.update(max_iters=budget.iterations, val_interval=budget.iterations)
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = min(warmup.end, budget.iterations // 2)
    decay.end = budget.iterations
    cfg.optim_wrapper.optimizer.lr = budget.lr
    cfg.train_dataloader.batch_size = budget.batch_size
    # Thrice, and not at the end: there, a validation that was stopped would be passed over.
    cfg.default_hooks.checkpoint.update(interval=budget.iterations // 4 + 1, save_last=False)
    cfg.randomness = dict(seed=seed)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{data_root}/"
        for step in loader.dataset.pipeline:
            if step["type"] == "Resize":
                step["scale"] = (budget.side, budget.side)  # as drawn
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{data_root}/annotations/instances_val.json"
    return cfg


def run_case(name: str, budget: Budget, seed: int, out: Path, data_root: Path) -> dict[str, Any]:
    """Train a case with a seed; return the AP of small objects and the last loss."""
    cfg = make_config(CASES[name], budget, seed, data_root)
    records = train(cfg, out / f"{name.replace(', ', '-').replace(' ', '_')}_{seed}", resume=True)
    (score,) = [record[METRIC] for record in records if METRIC in record]
    losses = [record["loss"] for record in records if "loss" in record]
    return {"AP_small": round(100 * score, 2), "loss": losses[-1]}


def time_steps(names: Sequence[str], budget: Budget, repeats: int) -> dict[str, dict[str, float]]:
    """Time a training step of each case, in turns in one process: median seconds, and parameters of the backbone."""
    steps: dict[str, Callable[[], object]] = {}
    parameters: dict[str, int] = {}
    MMLogger.get_current_instance().setLevel("ERROR")  # the optimiser's constructor logs a line for each parameter
    for name in names:
        cfg = make_config(CASES[name], budget, 0, Path("none"))
        register_scope(cfg)
        torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        batch = make_batch(cfg.model, "mmdet", budget.side, training=True)
        parameters[name] = count_parameters(model.backbone)
        steps[name] = lambda model=model, wrapper=wrapper, batch=batch: model.train_step(batch, wrapper)
    medians = seconds_in_turns(steps, repeats, warm_ups=2)
    return {name: {"seconds": seconds, "parameters": parameters[name]} for name, seconds in medians.items()}


def rows(results: Mapping[str, Mapping[str, Any]], steps: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Make a line of the table for each case that has results, beside the first case's."""
    first = next(iter(CASES))
    scores = {
        name: [held["AP_small"] for key, held in results.items() if key.rpartition(" seed ")[0] == name]
        for name in CASES
    }
    means = {name: statistics.mean(some) for name, some in scores.items() if some}
    seconds = {name: step["seconds"] for name, step in steps.items()}
    return [
        {
            "pyramid": name,
            "AP_small of each seed": " ".join(f"{score:.1f}" for score in scores[name]),
            "mean": round(means[name], 2) if name in means else None,
            "gain": _ratio(means, name, first),
            "step (ms)": round(1000 * seconds[name]) if name in seconds else None,
            "time": _ratio(seconds, name, first),
            "parameters (M)": round(steps[name]["parameters"] / 1e6, 2) if name in steps else None,
        }
        for name in CASES
        if scores[name] or name in steps
    ]


def _ratio(values: Mapping[str, float], name: str, first: str) -> float | None:
    return round(values[name] / values[first], 2) if name in values and values.get(first) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what has no result yet, time the steps, show the table and write it."""
    args = parse_args(arguments)
    names = args.cases or list(CASES)
    budget = Budget(iterations=args.iterations, images=tuple(args.images))
    out = args.out.resolve()
    kept = Results(out / "results.json", {"budget": asdict(budget)})
    if not args.step_times:
        data_root = out / "small_shapes"
        sides = (budget.side, budget.side)
        make_dataset(data_root, ShapesSettings(*budget.images, size_range=sides, object_sides=(4, 12)))
        wanted = [(name, seed) for seed in args.seeds for name in names]
        for name, seed in tqdm(wanted, dynamic_ncols=True, disable=None):
            if (key := f"{name} seed {seed}") not in kept.by_name:
                kept.add(key, run_case(name, budget, seed, out, data_root))
    steps = time_steps(names, budget, args.repeats) if args.repeats else {}
    table = rows(kept.by_name, steps)
    write_text(out / "results.md", to_markdown(table) + "\n")
    Console(width=None if sys.stdout.isatty() else 200).print(to_table(table))
    print(f"asked of a spatial prior: gain {LEAST_GAIN} or more, time {MOST_TIME} or less; written: {out}/results.md")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(map(repr, CASES))}; default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--iterations", type=int, default=Budget.iterations, help="steps of each run (default: %(default)s)")
    add("--images", nargs=2, type=int, default=Budget.images, metavar=("TRAIN", "VAL"), help="images to draw")
    add("--repeats", type=int, default=15, help="timed steps of each case, 0 for none (default: %(default)s)")
    add("--step-times", action="store_true", help="time the steps alone")
    add("--out", type=Path, default=Path("work_dirs/small_objects"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)
