"""A transfer: pretrained on one half of the generated classes, tuned on the other half with a tenth of the images.

Semantic FPN on a small Twins. Each training is a run of ``tools/train.py``. Pixels of the other half's classes are
ignored, so that no half hears of the other.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from lab.learning.cases import DEPTHS, HEADS, WIDTHS
from lab.learning.check import METRIC, RECIPE, train
from lab.shapes import CLASSES, ShapesSettings, make_dataset

#: Labels of the two halves in the drawn label maps, where 0 is the background; and mmseg's label of ignored pixels.
HALVES = {"first": (1, 2, 3), "second": (4, 5, 6)}
IGNORED = 255

#: Channels of the neck and the head, which would otherwise take most of the time.
HEAD = 64

#: How the trunk is tuned: options of the backbone, and the factor of its learning rate.
METHODS: Mapping[str, tuple[dict[str, Any], float]] = {
    "full": ({}, 1.0),
    "LoRA": (dict(peft=dict(type="LoRA", r=8, alpha=16, targets="all")), 10.0),
    "LoRA, half that rate": (dict(peft=dict(type="LoRA", r=8, alpha=16, targets="all")), 5.0),
    "frozen": (dict(frozen_stages=4), 1.0),
}


@dataclass(frozen=True)
class Budget:
    """The trainings of a transfer.

    Attributes:
        pretraining: steps on the first half, of four crops.
        tuning: steps on the second half.
        images: drawn for training and for validation; a tenth of the former is tuned on.
        lr: the largest learning rate.
    """

    pretraining: int = 300
    tuning: int = 120
    images: tuple[int, int] = (300, 40)
    lr: float = 4e-4


def prepare_data(budget: Budget, folder: Path) -> Path:
    """Draw the images, and write the label maps of each half; return the dataset's folder."""
    make_dataset(folder, ShapesSettings(train=budget.images[0], val=budget.images[1]))
    for half, labels in HALVES.items():
        table = np.full(256, IGNORED, dtype=np.uint8)
        table[[0, *labels]] = range(len(labels) + 1)
        for path in sorted(folder.glob("annotations/[tv]*/*.png")):
            target = folder / f"annotations_{half}" / path.parent.name / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(table[np.asarray(Image.open(path))]).save(target)
    return folder


def make_config(half: str, budget: Budget, data: Path, seed: int, steps: int) -> Config:
    """Make the recipe of a training on one half of the classes."""
    cfg = Config.fromfile(RECIPE)
    names = ("background", *(CLASSES[label - 1] for label in HALVES[half]))
    trunk = dict(embed_dims=WIDTHS, depths=DEPTHS, num_heads=HEADS)
    cfg.model.backbone = dict(type="TimmAdapter", model_name="twins_svt_small", stage_norm=True, trunk=trunk)
    cfg.model.neck.update(in_channels=list(WIDTHS), out_channels=HEAD)
    cfg.model.decode_head.update(in_channels=[HEAD] * 4, channels=HEAD, num_classes=len(names))
    cfg.train_cfg.update(max_iters=steps, val_interval=steps)
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = min(warmup.end, steps // 2)
    decay.end = steps
    cfg.optim_wrapper.optimizer.lr = budget.lr
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=steps, save_optimizer=False)
    cfg.randomness = dict(seed=seed)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = f"{data}/"
        palette = [loader.dataset.metainfo.palette[label] for label in (0, *HALVES[half])]
        loader.dataset.metainfo.update(classes=names, palette=palette)
        loader.dataset.data_prefix.seg_map_path = f"annotations_{half}/{Path(loader.dataset.data_prefix.img_path).name}"
    return cfg


def tuning_config(method: str, budget: Budget, data: Path, seed: int, weights: Path) -> Config:
    """Make the recipe of a tuning: the second half of the classes, a tenth of the images."""
    cfg = make_config("second", budget, data, seed, budget.tuning)
    options, rate = METHODS[method]
    cfg.model.backbone.update(weights=str(weights), **options)
    cfg.train_dataloader.dataset.indices = budget.images[0] // 10
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={"backbone.trunk": dict(lr_mult=rate)})
    return cfg


def run(cfg: Config, work_dir: Path) -> dict[str, Any]:
    """Run a training in a process of its own; return its mIoU and its seconds."""
    start = time.monotonic()
    (score,) = [record[METRIC] for record in train(cfg, work_dir) if METRIC in record]
    return {METRIC: score, "seconds": round(time.monotonic() - start)}


def pretrained(out: Path, seed: int, steps: int) -> Path:
    """Return the path of a pretraining's checkpoint."""
    return out / f"pretraining {seed}" / f"iter_{steps}.pth"


def ratios(results: Mapping[str, Mapping[str, Any]], method: str, seeds: Sequence[int]) -> list[float]:
    """Return a method's mIoU as a share of full fine-tuning's, seed by seed."""
    return [results[f"{method} {seed}"][METRIC] / results[f"full {seed}"][METRIC] for seed in seeds]
