"""Time of a training step on batches of several sizes, padded and exact, taken in turns in one process.

A recipe's detector gets images of the sizes that are frequent in COCO, scaled as the recipe scales them and then by
``--scale``: batches of any four, and batches of four landscapes or four portraits, as mmdet's sampler makes them.
"""

import argparse
import copy
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn
from tqdm import tqdm

from adapters.describe.tables import markdown_table
from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.run import register_scope

#: Height and width of images of COCO, with about as many in a hundred as there are of each among these.
COCO_SIZES = {
    (480, 640): 27,
    (427, 640): 20,
    (426, 640): 12,
    (640, 480): 11,
    (640, 427): 7,
    (375, 500): 7,
    (640, 426): 4,
    (425, 640): 3,
    (500, 375): 3,
    (333, 500): 3,
    (640, 640): 2,
    (360, 640): 1,
}
LONG, SHORT = 1333, 800
BATCH = 4


def draw_batches(count: int, scale: float, grouped: bool, seed: int = 0) -> list[list[tuple[int, int]]]:
    """Draw the sizes of the images of some batches."""
    rng = random.Random(seed)
    batches: list[list[tuple[int, int]]] = []
    while len(batches) < count:
        drawn = rng.choices(list(COCO_SIZES), list(COCO_SIZES.values()), k=BATCH)
        if grouped:
            is_wide = drawn[0][1] > drawn[0][0]
            alike = {size: share for size, share in COCO_SIZES.items() if (size[1] > size[0]) == is_wide}
            drawn = [drawn[0], *rng.choices(list(alike), list(alike.values()), k=BATCH - 1)]
        batches.append([_scaled(size, scale) for size in drawn])
    return batches


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    factor = scale * min(LONG / max(size), SHORT / min(size))
    return round(size[0] * factor), round(size[1] * factor)


def make_data(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Make what a data loader gives for a batch: noise, with a box in each image."""
    samples = []
    for height, width in sizes:
        sample = DetDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        box = torch.tensor([[0.2 * width, 0.2 * height, 0.7 * width, 0.6 * height]])
        sample.gt_instances = InstanceData(bboxes=box, labels=torch.tensor([1]))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes], data_samples=samples)


def build(config: str, batch_padding: str | None) -> nn.Module:
    """Build the model of a recipe, at random, in train mode."""
    cfg = Config.fromfile(find_config(config))
    register_scope(cfg)
    drop_pretrained(cfg.model)
    cfg.model.backbone.batch_padding = batch_padding
    return MODELS.build(cfg.model).train()


def step_seconds(model: Any, sizes: Sequence[tuple[int, int]]) -> float:
    """Return the seconds of the forward and the backward pass of a batch."""
    data = model.data_preprocessor(copy.deepcopy(make_data(sizes)), True)
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    model.parse_losses(model(**data, mode="loss"))[0].backward()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", default="adapters::detection/retinanet_twins-svt-s_fpn_1x_coco", help="default: %(default)s")
    add("--batches", type=int, default=8, help="of each kind (default: %(default)s)")
    add("--scale", type=float, default=0.4, help="of 1333 x 800 (default: %(default)s)")
    add("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    models = {name: build(args.config, name) for name in (None, "exact")}
    rows = []
    for kind, grouped in (("any four", False), ("four of one orientation", True)):
        batches = draw_batches(args.batches, args.scale, grouped)
        seconds = dict.fromkeys(models, 0.0)
        for turn, sizes in enumerate(tqdm([batches[0], *batches], desc=kind, disable=None)):  # the first warms up
            for name, model in models.items():
                taken = step_seconds(model, sizes)
                seconds[name] += taken if turn else 0.0
        padded, exact = (seconds[name] / len(batches) for name in (None, "exact"))
        rows.append([kind, f"{padded:.2f} s", f"{exact:.2f} s", f"{exact / padded:.2f}"])
    print(markdown_table(("batch", "padded", "exact", "exact / padded"), rows, ("padded", "exact", "exact / padded")))
    return 0
