"""One side in one process: a whole model that is built, stepped, timed and weighed."""

import copy
import gc
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as REGISTRY
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules as register_mmseg
from torch import Tensor

from adapters.describe.counting import count_parameters
from lab.benchmark.measure import peak_resident_bytes
from lab.benchmark.results import Settings
from lab.whole_models.cases import MODELS, STRIDES, ModelCase, Size

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SEED = 0
#: Objects of an image of a detector, and blocks of labels to a side of a segmentor's.
OBJECTS, BLOCKS = 8, 4
#: The image that a process steps once before its memory is measured, so that code and the optimiser's state are there.
SMALL: Size = (128, 160)


def build_quietly(side: str, case: ModelCase, settings: Settings) -> "WholeModel":
    """Build a side in a process of its own, whose loggers need not tell of each weight from then on."""
    logging.getLogger().setLevel(logging.ERROR)
    MMLogger.get_current_instance().setLevel("ERROR")
    return WholeModel(side, case, settings)


class WholeModel:
    """A side of a case.

    Args:
        side: of ``case.sides``.
        case: the case.
        settings: of the run; the device is the CPU.
    """

    def __init__(self, side: str, case: ModelCase, settings: Settings) -> None:  # noqa: ARG002, as the benchmark's Bench
        self.case = case
        self.trains = case.mode == "train"
        self.is_segmentor = case.model == "upernet"
        scope = "mmseg" if self.is_segmentor else "mmdet"
        register_mmdet(init_default_scope=False)
        register_mmseg(init_default_scope=False)
        init_default_scope(scope)
        torch.manual_seed(SEED)
        config = case.backbone(side)
        # timm's models of one size take no other.
        self.first_size = case.size if "img_size" in config else SMALL
        backbone = REGISTRY.build(config)
        channels = self._check_levels(backbone)
        cfg = Config.fromfile(CONFIGS / MODELS[case.model]).model
        cfg.backbone = dict(type="TimmAdapter", model_name="resnet18")  # in whose place the side's comes
        fit(cfg, channels, case.size)
        self.model = revert_sync_batchnorm(REGISTRY.build(cfg))
        self.model.backbone = backbone
        self.model.init_weights()
        self.model.train(self.trains)
        # A rate of 0 keeps the weights, so that each step does what the first did.
        optimiser = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0, weight_decay=1e-4))
        self.optimiser = build_optim_wrapper(self.model, optimiser)
        # UPerNet pools to one cell, whose norm wants two values.
        self.images = 2 if self.is_segmentor and self.trains else 1
        self.data = make_data(case.size, self.is_segmentor, self.images)

    def _check_levels(self, backbone: Any) -> list[int]:
        """Return the channels of a backbone's maps.

        Raises:
            ValueError: their strides are not those that necks and heads are made for.
        """
        height, width = self.case.size
        backbone.eval()  # of mmdet's Swin, this returns None
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        strides = tuple(round(height / one.shape[2]) for one in maps)
        if strides != STRIDES:
            raise ValueError(f"maps of strides {', '.join(map(str, strides))}, not {', '.join(map(str, STRIDES))}")
        return [one.shape[1] for one in maps]

    def warm_up(self) -> int:
        """Step once; return the backbone's parameters."""
        self._run(self.data)
        return count_parameters(self.model.backbone)

    def seconds(self) -> float:
        """Time a step."""
        gc.collect()
        data = copy.deepcopy(self.data)
        start = time.perf_counter()
        self._run(data, copied=True)
        return time.perf_counter() - start

    def backbone_seconds(self) -> float:
        """Time the backbone alone on the same image, in training with its backward pass."""
        gc.collect()
        image = self.model.data_preprocessor(copy.deepcopy(self.data), self.trains)["inputs"]
        self.model.backbone.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.set_grad_enabled(self.trains):
            maps: Sequence[Tensor] = self.model.backbone(image)
        if self.trains:
            torch.autograd.backward(list(maps), [torch.ones_like(one) for one in maps])
        seconds = time.perf_counter() - start
        self.model.backbone.zero_grad(set_to_none=True)
        return seconds

    def peak_bytes(self) -> int:
        """Measure the memory of one step beyond imports, weights, the optimiser's state and the image."""
        self._run(make_data(self.first_size, self.is_segmentor, self.images))
        return peak_resident_bytes(lambda: self._run(self.data))

    def _run(self, data: dict[str, Any], copied: bool = False) -> None:
        torch.manual_seed(SEED)  # of the proposals that a detector samples
        np.random.seed(SEED)
        data = data if copied else copy.deepcopy(data)
        if self.trains:
            self.model.train_step(data, self.optimiser)
        else:
            with torch.no_grad():
                self.model.test_step(data)


def fit(cfg: Any, channels: Sequence[int], size: Size) -> None:
    """Have a model's config take maps of these channels and images of a size, and find nothing, in place.

    With random weights, how much is found would be a matter of chance, and so would the time that it takes.
    """
    if "neck" in cfg:
        cfg.neck.in_channels = list(channels)
        cfg.test_cfg.get("rcnn", cfg.test_cfg).score_thr = 1.0
        return
    cfg.decode_head.in_channels = list(channels)
    cfg.auxiliary_head.in_channels = channels[2]
    cfg.data_preprocessor.size = size


def make_data(size: Size, is_segmentor: bool, images: int = 1) -> dict[str, Any]:
    """Make what a data loader gives for a batch: noise, with boxes and masks, or with blocks of labels."""
    rng = np.random.default_rng(SEED)
    make = _labelled if is_segmentor else _with_objects
    inputs = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for _ in range(images)]
    return dict(inputs=inputs, data_samples=[make(rng, size) for _ in inputs])


def _metainfo(size: Size) -> dict[str, Any]:
    return dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), flip=False, img_id=0)


def _labelled(rng: np.random.Generator, size: Size) -> SegDataSample:
    sample = SegDataSample(metainfo=_metainfo(size))
    blocks = torch.from_numpy(rng.integers(0, 150, (1, 1, BLOCKS, BLOCKS))).float()
    sample.gt_sem_seg = PixelData(data=torch.nn.functional.interpolate(blocks, size)[0].long())
    return sample


def _with_objects(rng: np.random.Generator, size: Size) -> DetDataSample:
    height, width = size
    sides = rng.uniform(0.1, 0.4, (OBJECTS, 2)) * (width, height)
    corners = rng.uniform(0, 1, (OBJECTS, 2)) * ((width, height) - sides)
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    masks = np.zeros((OBJECTS, *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo=_metainfo(size))
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(rng.integers(0, 80, OBJECTS)),
        masks=BitmapMasks(masks, height, width),
    )
    return sample
