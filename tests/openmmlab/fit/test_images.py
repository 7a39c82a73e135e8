"""Swapped backbones get images as timm's own transform makes them, whatever the config did before."""

import copy
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image
from timm.data import create_transform

from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.config_tree import find_owner
from adapters.openmmlab.fit import check_fit, fit_backbone
from adapters.openmmlab.fit.images import follow_weights
from adapters.openmmlab.run import load_config

#: Its weights were trained on values of 0.5, unlike those of every config.
VIT = "vit_tiny_patch16_224"
SMALL = {"trunk": {"depth": 4, "embed_dim": 48, "num_heads": 4}}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for package in ("mmdet", "mmseg"):
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
    yield
    init_default_scope("mmengine")


def config(name: str) -> Config:
    init_default_scope(name.split("::")[0])
    return Config.fromfile(find_config(name))


def swap(cfg: Config, weights: str | None = "timm") -> list[str]:
    """Name the small ViT as the backbone, and fit the images only."""
    owner, _ = find_owner(cfg.model)
    owner.backbone = ConfigDict(type="TimmAdapter", model_name=VIT, weights=weights, **SMALL)
    return follow_weights(cfg, owner.backbone, cfg.default_scope)


def timm_input(model_name: str) -> torch.Tensor:
    """What timm's own transform makes of the image, ``(3, H, W)``."""
    cfg = timm.get_pretrained_cfg(model_name)
    transform = create_transform(
        input_size=(3, 64, 96), crop_pct=1.0, mean=cfg.mean, std=cfg.std, interpolation="bicubic"
    )
    return transform(Image.fromarray(PIXELS))


def loaded(folder: Path, **options: Any) -> torch.Tensor:
    """The image as a loader of mmcv's gives it, ``(3, H, W)``."""
    Image.fromarray(PIXELS).save(folder / "a.png")
    load = TRANSFORMS.build(dict(type="LoadImageFromFile", **options))
    return torch.from_numpy(load({"img_path": str(folder / "a.png")})["img"]).permute(2, 0, 1)


def innermost(node: ConfigDict) -> ConfigDict:
    while "data_preprocessor" in node:
        node = node["data_preprocessor"]
    return node


CONFIGS = [
    "mmdet::fcos_r50-caffe_fpn_gn-head_1x_coco",  # blue first, std 1
    "mmdet::rtmdet_tiny_8xb32-300e_coco",  # blue first
    "mmdet::yolox_tiny_8xb8-300e_coco",  # 0 to 255, pads before
    "mmdet::ssd300_coco",  # red first, std 1
    "mmdet::soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco",  # one inside another
    "mmdet::bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval",  # videos
    "mmseg::segmenter_vit-t_mask_8xb1-160k_ade20k-512x512",
    "mmseg::cgnet_fcn_4xb8-60k_cityscapes-512x1024",  # red first, its own dataset's values
]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_backbone_gets_what_timm_would_give_it(name: str, tmp_path: Path) -> None:
    cfg = config(name)
    lines = swap(cfg)
    node = innermost(cfg.model.data_preprocessor)
    assert any("data_preprocessor: mean" in line and f"as the weights of {VIT} expect" in line for line in lines) or (
        node.mean == [127.5] * 3
    )
    image = loaded(tmp_path)
    video = node.type == "TrackDataPreprocessor"
    inputs = MODELS.build(node)({"inputs": [image[None] if video else image], "data_samples": None})["inputs"][0]
    torch.testing.assert_close((inputs[0] if video else inputs)[:, :64, :96], timm_input(VIT), rtol=1e-5, atol=1e-6)


def test_random_weights_leave_the_images() -> None:
    for name in CONFIGS[:3]:
        cfg = config(name)
        former = copy.deepcopy(cfg.model.data_preprocessor)
        lines = swap(cfg, weights=None)
        assert cfg.model.data_preprocessor == former
        assert not any("preprocessor" in line for line in lines)


def test_the_whole_model_hands_the_images_on(tmp_path: Path) -> None:
    cfg = config("mmdet::retinanet_r18_fpn_1x_coco")
    cfg.model.data_preprocessor = dict(type="DetDataPreprocessor", mean=[0] * 3, std=[1] * 3)
    fit_backbone(cfg, VIT, **SMALL)
    cfg.model.backbone.weights = None
    model = MODELS.build(cfg.model).eval()
    seen: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    sample = importlib.import_module("mmdet.structures").DetDataSample(
        metainfo={"img_shape": (64, 96), "ori_shape": (64, 96), "scale_factor": (1.0, 1.0)}
    )
    with torch.no_grad():
        model.test_step({"inputs": [loaded(tmp_path)], "data_samples": [sample]})
    torch.testing.assert_close(seen[0][0], timm_input(VIT), rtol=1e-5, atol=1e-6)


def test_a_config_without_a_preprocessor_gets_one(tmp_path: Path) -> None:
    for name in ("mmdet::retinanet_r18_fpn_1x_coco", "mmseg::fcn_r18-d8_4xb2-80k_cityscapes-512x1024"):
        cfg = config(name)
        del cfg.model.data_preprocessor
        cfg.pop("data_preprocessor", None)
        lines = swap(cfg)
        assert any("the config has none" in line for line in lines)
        inputs = MODELS.build(cfg.model.data_preprocessor)({"inputs": [loaded(tmp_path)], "data_samples": None})[
            "inputs"
        ]
        torch.testing.assert_close(inputs[0], timm_input(VIT), rtol=1e-5, atol=1e-6)


def test_the_runners_own_preprocessor_counts() -> None:
    cfg = config("mmdet::retinanet_r18_fpn_1x_coco")
    cfg.data_preprocessor = cfg.model.pop("data_preprocessor")
    swap(cfg)
    assert cfg.model.data_preprocessor.mean == cfg.data_preprocessor.mean == [127.5] * 3
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    cfg = config("mmseg::segmenter_vit-t_mask_8xb1-160k_ade20k-512x512")
    cfg.model.data_preprocessor.std = cfg.data_preprocessor.std = [1] * 3
    swap(cfg)
    assert cfg.model.data_preprocessor == cfg.data_preprocessor
    assert cfg.data_preprocessor.std == [127.5] * 3


def test_pipelines_that_decode_red_first_are_not_swapped() -> None:
    cfg = config("mmdet::retinanet_r18_fpn_1x_coco")
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[0].imdecode_backend = "tifffile"
    cfg.pop("train_pipeline"), cfg.pop("test_pipeline")
    swap(cfg)
    assert cfg.model.data_preprocessor.bgr_to_rgb is False


def test_overrides_decide_which_weights_count_and_win() -> None:
    name = "mmdet::retinanet_r18_fpn_1x_coco"
    former = config(name).model.data_preprocessor
    cfg, _ = load_config(name, backbone=VIT, overrides={"model.backbone.weights": None})
    assert cfg.model.data_preprocessor == former
    cfg, notes = load_config(name, backbone=VIT, overrides={"model.backbone.weights": "mine.pth"})
    assert cfg.model.data_preprocessor.mean == [127.5] * 3
    assert any("weights='mine.pth' are taken for trained on the images of" in note for note in notes)
    cfg, _ = load_config(name, backbone=VIT, overrides={"model.data_preprocessor.mean": [1, 2, 3]})
    assert (cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std) == ([1, 2, 3], [127.5] * 3)
    cfg, notes = load_config(name, backbone=VIT, overrides={"model.backbone.in_channels": 4})
    assert cfg.model.data_preprocessor.type == "MultiChannelDetDataPreprocessor"
    assert cfg.model.data_preprocessor.mean == [127.5] * 4
    assert "bgr_to_rgb" not in cfg.model.data_preprocessor


def test_overrides_reach_an_adapter_with_a_bridge_behind_it() -> None:
    name = "mmseg::bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024"
    overrides = {"model.backbone.backbone_cfg.weights": "timm", "model.backbone.backbone_cfg.frozen_stages": 2}
    cfg, _ = load_config(name, backbone=VIT, overrides=overrides)
    adapter, bridge = cfg.model.backbone.backbone_cfg
    assert (adapter.weights, adapter.frozen_stages, bridge.type) == ("timm", 2, "LevelBridge")
    assert cfg.model.data_preprocessor.mean == [127.5] * 3


def test_unknown_preprocessors_and_teachers_are_named() -> None:
    cfg = config("mmdet::retinanet_r18_fpn_1x_coco")
    cfg.model.data_preprocessor = dict(type="BaseDataPreprocessor")
    cfg.model.teacher_backbone = dict(type="ResNet", depth=18)
    lines = swap(cfg)
    assert cfg.model.data_preprocessor == dict(type="BaseDataPreprocessor")
    assert any("BaseDataPreprocessor normalises in a way that is not known here" in line for line in lines)
    assert any(line.startswith("model.teacher_backbone sees the same images") for line in lines)


def plain(**preprocessor: Any) -> Config:
    """A config that names an adapter, and normalises as asked."""
    cfg = config("mmdet::retinanet_r18_fpn_1x_coco")
    swap(cfg)
    cfg.model.neck.in_channels = [48] * 4
    cfg.model.data_preprocessor.update(preprocessor)
    return cfg


def test_a_plain_config_that_does_not_fit_is_warned_of_once() -> None:
    cfg = plain(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=False)
    with pytest.warns(UserWarning, match="not normalised") as caught:
        check_fit(cfg)
    (warning,) = [item for item in caught if "not normalised" in str(item.message)]
    lines = str(warning.message).splitlines()
    assert lines[1] == "  model.data_preprocessor: mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375], BGR"
    assert lines[2] == "  weights='timm': mean [127.5, 127.5, 127.5], std [127.5, 127.5, 127.5], RGB"
    assert "mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True" in lines[3]


@pytest.mark.parametrize(
    ("preprocessor", "weights", "fits"),
    [
        ({}, "timm", True),
        ({"mean": [127.0, 127.9, 127.5], "std": [128, 128, 128]}, "timm", True),
        ({"bgr_to_rgb": False}, "timm", False),
        ({"bgr_to_rgb": False, "rgb_to_bgr": True}, "timm", True),  # either name swaps
        ({"std": [1, 1, 1]}, "timm", False),
        ({"mean": None, "std": None}, "timm", False),
        ({"std": [1, 1, 1]}, None, True),
        ({"std": [1, 1, 1]}, "mine.pth", True),  # nobody knows what it was trained on
    ],
)
def test_who_is_warned(preprocessor: dict[str, Any], weights: str | None, fits: bool) -> None:
    cfg = plain(**preprocessor)
    cfg.model.backbone.weights = weights
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_fit(cfg)
    assert fits != any("not normalised" in str(item.message) for item in caught)


def test_pipelines_that_normalise_are_part_of_what_images_become() -> None:
    cfg = plain(mean=None, std=None, bgr_to_rgb=False)
    for steps in (cfg.train_dataloader.dataset.pipeline, cfg.train_pipeline):
        steps.insert(2, dict(type="Normalize", mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fit(cfg)
    cfg.model.data_preprocessor.update(mean=[127.5] * 3, std=[127.5] * 3)  # twice
    with pytest.warns(UserWarning, match="not normalised"):
        check_fit(cfg)


def test_semi_supervised_detectors_keep_their_branches() -> None:
    cfg = config(CONFIGS[4])
    swap(cfg)
    owner, _ = find_owner(cfg.model)
    assert owner.data_preprocessor.mean == [127.5] * 3
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    assert cfg.model.data_preprocessor.type == "MultiBranchDataPreprocessor"
    assert (preprocessor.data_preprocessor({"inputs": [image], "data_samples": None})["inputs"] == 1).all()
