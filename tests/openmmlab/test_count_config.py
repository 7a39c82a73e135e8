"""Counting the complete model of a config: as its parts count, without its weights, and by running where it must."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from zoo import TWINS

from adapters.describe.backbones import describe_backbone
from adapters.describe.counting import count_parameters
from adapters.openmmlab.count_config import count_config, image_size
from adapters.openmmlab.run import register_scope

REPOSITORY = Path(__file__).resolve().parents[2]


def semantic_fpn(**backbone: Any) -> Config:
    cfg = Config.fromfile(REPOSITORY / "configs/segmentation/fpn_twins-svt-s_80k_ade20k-512x512.py")
    cfg.model.backbone.update(backbone)
    register_scope(cfg)
    return cfg


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_a_complete_model_counts_as_its_parts_do(scope: str) -> None:
    """Backbone, neck and heads counted one by one, for real, on maps of the right size."""
    if scope == "mmseg":
        cfg = semantic_fpn(trunk=TWINS, out_indices=(0, 1, 2, 3))
        cfg.model.neck.in_channels = TWINS["embed_dims"]
        size = image_size(cfg)
        assert size == (512, 512)
    else:
        cfg = Config.fromfile(REPOSITORY / "configs/detection/mask-rcnn_twins-svt-s_fpn_1x_coco.py")
        cfg.model.backbone.update(trunk=TWINS)
        cfg.model.neck.in_channels = TWINS["embed_dims"]
        register_scope(cfg)
        assert image_size(cfg) == (800, 1344)
        size = (96, 128)
    cfg.model.backbone.weights = "timm"  # must not be asked for
    found = count_config(cfg, size)
    cfg.model.backbone.weights = None
    with torch.device("meta"):
        model = MODELS.build(cfg.model).eval()
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert dict(found.parts)["neck"] == sum(parameter.numel() for parameter in model.neck.parameters())

    strides = (4, 8, 16, 32)
    total = describe_backbone("twins_svt_small", size, dict(trunk=TWINS, stage_norm=True)).count.multiply_adds
    grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]
    cells = [height * width for height, width in grids]
    total += sum(
        count * (channels * 256 + 9 * 256 * 256) for count, channels in zip(cells, TWINS["embed_dims"], strict=True)
    )
    if scope == "mmseg":
        # Each level's convolutions, at the resolution that they run at on the way up to stride 4.
        for level in range(4):
            for step in range(max(level, 1)):
                total += cells[level - step] * 9 * (256 if step == 0 else 128) * 128
        total += cells[0] * 128 * 150
    else:
        cells.append(-(-grids[-1][0] // 2) * -(-grids[-1][1] // 2))
        total += sum(cells) * (9 * 256 * 256 + 256 * 3 * 5)  # proposals
        total += 1000 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 320))  # boxes
        total += 100 * (14 * 14 * 256 * (4 * 9 * 256 + 4 * 256) + 28 * 28 * 256 * 80)  # masks
    assert found.multiply_adds == total


def test_models_that_read_values_are_run_for_real() -> None:
    """DETR's padding masks have no meaning without data."""
    cfg = Config.fromfile(REPOSITORY / "configs/detection/dino_swinv2-cr-tiny_12e_coco.py")
    cfg.model.backbone.update(trunk=dict(depths=(1, 1, 1, 1)), weights=None)
    cfg.model.update(num_queries=20)
    register_scope(cfg)
    found = count_config(cfg, (64, 96))
    model = MODELS.build(cfg.model)
    assert found.parameters == count_parameters(model)
    assert (
        found.multiply_adds
        > describe_backbone(
            "swinv2_cr_tiny_ns_224", (64, 96), dict(trunk=dict(depths=(1, 1, 1, 1)), out_indices=(1, 2, 3))
        ).count.multiply_adds
    )


def test_a_size_that_a_model_cannot_take() -> None:
    cfg = semantic_fpn(trunk=TWINS)
    with pytest.raises(
        ValueError, match=r"fpn_twins-svt-s.* cannot be run on an image of 64 x 64: .*Give another size with --size"
    ):
        count_config(cfg, (64, 64))  # the neck is for other channels
