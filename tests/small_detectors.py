"""Small detectors and segmentors of mmdet and mmseg, as configs, and checkpoints of theirs."""

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from small_runs import TRUNK
from torch import nn
from zoo import randomise

from adapters.openmmlab.run import register_scope


def small_backbone(**options: Any) -> dict[str, Any]:
    return {"type": "TimmAdapter", "model_name": "twins_svt_small", "trunk": dict(TRUNK), **options}


def small_neck() -> dict[str, Any]:
    return dict(type="FPN", in_channels=[16, 32, 64, 128], out_channels=16, num_outs=4)


def retinanet(classes: int = 3, **backbone: Any) -> Config:
    """A RetinaNet with a backbone of ours: 72 tensors, 16 of the neck and 8 of the head."""
    head = dict(type="RetinaHead", num_classes=classes, in_channels=16, feat_channels=16, stacked_convs=1)
    model = dict(type="RetinaNet", backbone=small_backbone(**backbone), neck=small_neck(), bbox_head=head)
    return Config(dict(default_scope="mmdet", model=model))


def two_stage(masks: bool = False, classes: int = 3) -> Config:
    """A Faster R-CNN, or a Mask R-CNN."""
    roi = dict(type="SingleRoIExtractor", featmap_strides=[4, 8, 16], out_channels=16)
    box = dict(type="Shared2FCBBoxHead", in_channels=16, fc_out_channels=8, roi_feat_size=7, num_classes=classes)
    mask = dict(type="FCNMaskHead", num_convs=1, in_channels=16, conv_out_channels=8, num_classes=classes)
    layers = {"bbox_roi_extractor": dict(roi, roi_layer=dict(type="RoIAlign", output_size=7)), "bbox_head": box}
    if masks:
        layers["mask_roi_extractor"] = dict(roi, roi_layer=dict(type="RoIAlign", output_size=14))
        layers["mask_head"] = mask
    model = dict(
        type="MaskRCNN" if masks else "FasterRCNN",
        backbone=small_backbone(),
        neck=small_neck(),
        rpn_head=dict(type="RPNHead", in_channels=16, feat_channels=16),
        roi_head=dict(type="StandardRoIHead", **layers),
        train_cfg=dict(rpn=None, rpn_proposal=None, rcnn=None),
        test_cfg=dict(rpn=None, rcnn=None),
    )
    return Config(dict(default_scope="mmdet", model=model))


def resnet_segmentor(depth: int = 18) -> Config:
    """A segmentor of mmseg's own parts, with batch norm."""
    model = dict(
        type="EncoderDecoder",
        backbone=dict(type="ResNetV1c", depth=depth, norm_cfg=dict(type="BN")),
        decode_head=dict(
            type="FCNHead", in_channels=512, channels=8, num_convs=1, num_classes=4, norm_cfg=dict(type="BN")
        ),
    )
    return Config(dict(default_scope="mmseg", model=model))


def ready(cfg: Config) -> Config:
    """Register the modules of a config's package, and make it the current one."""
    register_scope(cfg)
    return cfg


def build(cfg: Config, seed: int = 1) -> nn.Module:
    """Build the model of a config, every parameter randomised."""
    return randomise(MODELS.build(copy.deepcopy(ready(cfg).model)), seed)


def save_model(cfg: Config, path: Path, seed: int = 1, **beside: Any) -> str:
    """Save the randomised model of a config as mmengine does; return the name of the file."""
    torch.save({"meta": {}, "state_dict": build(cfg, seed).state_dict(), **beside}, path)
    return str(path)
