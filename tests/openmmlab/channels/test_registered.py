"""Detectors and segmentors of mmdet and mmseg on images of five channels, and the preprocessors' errors."""

import copy
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.fit import check_fit, fit_backbone

MEAN, STD = [500.0, 400.0, 300.0, 200.0, 100.0], [50.0, 40.0, 30.0, 20.0, 10.0]
TYPES = {"mmdet": "MultiChannelDetDataPreprocessor", "mmseg": "MultiChannelSegDataPreprocessor"}
RESNET = {"trunk": {"layers": [1, 1, 1, 1], "channels": (8, 16, 24, 32)}, "in_channels": 5, "weights": None}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for package in TYPES:
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
    yield
    init_default_scope("mmengine")


def config(scope: str, name: str) -> Config:
    init_default_scope(scope)
    return Config.fromfile(find_config(f"{scope}::{name}"))


def image_file(folder: Path) -> tuple[Path, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 1000, (64, 96, 5)).astype(np.uint16)
    tifffile.imwrite(folder / "a.tif", image, photometric="minisblack", planarconfig="contig")
    return folder / "a.tif", image


def backbone_input(model: Any, data: dict[str, Any]) -> torch.Tensor:
    """The tensor that reaches the backbone in a training step, whose loss has a gradient."""
    seen: list[torch.Tensor] = []
    handle = model.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.train()
    losses = model._run_forward(model.data_preprocessor(data, True), mode="loss")
    model.parse_losses(losses)[0].backward()
    handle.remove()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    return seen[0]


def expected(image: np.ndarray) -> torch.Tensor:
    normalised = (image - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1)[None].float()


def test_a_detector_trains_on_five_bands(tmp_path: Path) -> None:
    path, image = image_file(tmp_path)
    cfg = config("mmdet", "retinanet_r18_fpn_1x_coco")
    lines = fit_backbone(cfg, "resnet18", **RESNET)
    assert any("-> MultiChannelDetDataPreprocessor, since the backbone takes 5 channels" in line for line in lines)
    cfg.model.data_preprocessor.update(mean=MEAN, std=STD)
    check_fit(cfg)
    pipeline = Compose([
        dict(type="LoadBandsFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="Resize", scale=(96, 64), keep_ratio=True),
        dict(type="RandomFlip", prob=0.0),
        dict(type="PackDetInputs"),
    ])  # fmt: skip
    sample = {
        "img_path": str(path),
        "img_id": 0,
        "instances": [{"bbox": [8, 8, 60, 50], "bbox_label": 3, "ignore_flag": 0}],
    }
    cfg.model.backbone.init_cfg = None
    seen = backbone_input(MODELS.build(cfg.model), pseudo_collate([pipeline(sample)]))
    torch.testing.assert_close(seen[:, :, :64, :96], expected(image))


def test_a_segmentor_trains_on_five_bands(tmp_path: Path) -> None:
    path, image = image_file(tmp_path)
    Image.fromarray(np.random.default_rng(1).integers(0, 19, (64, 96)).astype(np.uint8)).save(tmp_path / "a.png")
    cfg = config("mmseg", "fcn_r18-d8_4xb2-80k_cityscapes-512x1024")
    fit_backbone(cfg, "resnet18", **RESNET)
    cfg.model.data_preprocessor.update(mean=MEAN, std=STD, size=None, size_divisor=32)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.norm_cfg = dict(type="BN")
    pipeline = Compose([
        dict(type="LoadBandsFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="RandomFlip", prob=0.0),
        dict(type="PackSegInputs"),
    ])  # fmt: skip
    sample = {
        "img_path": str(path),
        "seg_map_path": str(tmp_path / "a.png"),
        "seg_fields": [],
        "reduce_zero_label": False,
    }
    data = pseudo_collate([pipeline(copy.deepcopy(sample)) for _ in range(2)])
    seen = backbone_input(MODELS.build(cfg.model), data)
    torch.testing.assert_close(seen, expected(image).expand(2, -1, -1, -1))


@pytest.mark.parametrize("scope", TYPES)
def test_three_channels_equal_the_packages_own(scope: str) -> None:
    init_default_scope(scope)
    options = dict(mean=MEAN[:3], std=STD[:3], bgr_to_rgb=True)
    own = MODELS.build(dict(type=TYPES[scope], **options))
    theirs = MODELS.build(dict(type="DetDataPreprocessor" if scope == "mmdet" else "SegDataPreProcessor", **options))
    data = {"inputs": [torch.randint(0, 255, (3, 8, 9), dtype=torch.uint8)], "data_samples": None}
    found, wanted = (model(copy.deepcopy(data))["inputs"] for model in (own, theirs))
    torch.testing.assert_close(found, wanted)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(own)))
    torch.testing.assert_close(copied(data)["inputs"], wanted)


@pytest.mark.parametrize("scope", TYPES)
def test_errors(scope: str) -> None:
    init_default_scope(scope)
    preprocessor = MODELS.build(dict(type=TYPES[scope], mean=MEAN, std=STD))
    with pytest.raises(ValueError, match=r"an image has 3 channels, and data_preprocessor\.mean has 5 values"):
        preprocessor({"inputs": [torch.zeros(3, 4, 4)], "data_samples": None})
    for options, message in (
        ({"mean": MEAN}, "give both, or neither"),
        ({"mean": MEAN, "std": STD[:3]}, "5 values of mean and 3 of std"),
        ({"mean": MEAN, "std": [0.0] * 5}, "std must be above 0"),
        ({"mean": MEAN, "std": STD, "bgr_to_rgb": True}, "swaps three channels .* has 5 values"),
    ):
        with pytest.raises(ValueError, match=message):
            MODELS.build(dict(type=TYPES[scope], **options))
