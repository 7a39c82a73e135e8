"""Swaps in configs whose heads were made for a dilated backbone: dilated alike where timm can, and told either way."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdet
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from zoo import TOKENS, TWINS

from adapters.openmmlab.fit import check_fit, fit_backbone

RESNET = {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)}
DEEPLAB = "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512"


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    for package in ("mmdet", "mmseg"):
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def scope_of_its_own() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def shipped(scope: str, name: str) -> Config:
    """A config that ships with mmdet or mmseg, by the start of its path."""
    root = Path({"mmdet": mmdet, "mmseg": mmseg}[scope].__file__).parent / ".mim" / "configs"
    path = sorted(root.glob(f"{name}*.py"))[0]
    init_default_scope(scope)
    return Config.fromfile(path)


def fit(cfg: Config, model_name: str = "resnet18", **options: Any) -> list[str]:
    options.setdefault("trunk", RESNET)
    lines = fit_backbone(cfg, model_name, **options)
    check_fit(cfg)
    return [line for line in lines if "dilate" in line or "has stride" in line]


def strides(cfg: Config) -> list[int]:
    backbone = cfg.model.backbone
    adapter = MODELS.build(backbone)
    assert [tuple(m.shape[-2:]) for m in adapter(torch.randn(1, 3, 33, 65))] == [
        (-(-33 // level.stride), -(-65 // level.stride)) for level in adapter.levels
    ]
    return [level.stride for level in adapter.levels]


@pytest.mark.parametrize(
    ("name", "output_stride", "expected"),
    [
        (DEEPLAB, 8, [4, 8, 8]),
        ("pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512", 8, [8, 8]),
        ("fcn/fcn-d6_r50-d16_4xb2-40k_cityscapes-512x1024", 16, [16, 16]),
        ("mobilenet_v3/mobilenet-v3-d8-s_lraspp", 8, [2, 4, 8]),
    ],
)
def test_heads_for_dilated_maps_get_dilated_maps(name: str, output_stride: int, expected: list[int]) -> None:
    cfg = shipped("mmseg", name)
    (line,) = fit(cfg)
    assert cfg.model.backbone.trunk == {**RESNET, "output_stride": output_stride}
    assert f"and so is resnet18: trunk=dict(output_stride={output_stride})" in line
    assert cfg.model.backbone.out_indices[-1] == 4
    assert strides(cfg) == expected


def test_a_detectors_dilated_stage_is_the_deepest() -> None:
    cfg = shipped("mmdet", "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco")
    fit(cfg)
    assert (cfg.model.backbone.out_indices, strides(cfg)) == ((4,), [16])
    cfg = shipped("mmdet", "faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco")  # a stride of 16 without dilation
    assert not fit(cfg)
    assert (cfg.model.backbone.out_indices, cfg.model.backbone.trunk) == ((3,), RESNET)


def test_a_position_keeps_its_depth_among_equal_strides() -> None:
    """The auxiliary head alone reads the third map; the fourth has the same stride."""
    cfg = shipped("mmseg", DEEPLAB)
    cfg.model.decode_head = cfg.model.auxiliary_head
    cfg.model.auxiliary_head = None
    fit(cfg)
    assert cfg.model.backbone.out_indices == (3,)
    cfg = shipped("mmseg", DEEPLAB)
    cfg.model.decode_head = cfg.model.auxiliary_head
    cfg.model.auxiliary_head = None
    fit(cfg, "twins_svt_small", trunk=TWINS)
    assert cfg.model.backbone.out_indices == (2,)


def test_what_cannot_be_dilated_says_so() -> None:
    cfg = shipped("mmseg", DEEPLAB)
    (line,) = fit(cfg, "twins_svt_small", trunk=TWINS)
    assert "ResNetV1c was dilated to stride 8; timm cannot dilate twins_svt_small: its stages keep" in line
    assert strides(cfg) == [4, 16, 32]
    cfg = shipped("mmseg", DEEPLAB)
    (line,) = fit(cfg, "vit_tiny_patch16_224", trunk=TOKENS)
    assert line.endswith("vit_tiny_patch16_224 has stride 16 throughout")


def test_the_callers_choice_stands() -> None:
    cfg = shipped("mmseg", DEEPLAB)
    assert not fit(cfg, trunk={**RESNET, "output_stride": 32})
    assert strides(cfg) == [4, 16, 32]
    cfg = shipped("mmseg", DEEPLAB)
    fit(cfg, out_indices=(1, 3, 4))
    assert strides(cfg) == [4, 8, 8]
    assert cfg.model.get("neck") is None


def test_a_config_that_ends_at_stride_32_is_left_alone() -> None:
    """Its convolutions are dilated, and its strides are 4 to 32 all the same."""
    cfg = shipped("mmseg", "pspnet/pspnet_r50-d32_4xb2-80k")
    assert not fit(cfg)
    assert cfg.model.backbone.trunk == RESNET


def test_a_dilated_timm_backbone_can_be_swapped_for_another() -> None:
    cfg = shipped("mmseg", DEEPLAB)
    fit(cfg)
    (line,) = fit(cfg, "mobilenetv3_small_050", trunk={})
    assert "and so is mobilenetv3_small_050" in line
    assert strides(cfg) == [4, 8, 8]
