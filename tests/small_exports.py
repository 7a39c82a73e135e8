"""Small detectors and segmentors of every head that is exported, and eager graphs in the place of files."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import small_exact
import torch
from mmengine.config import Config
from small_recipes import REPOSITORY
from torch import nn
from zoo import randomise

from adapters.export.decoding import Model
from adapters.openmmlab.export.graphs import Whole
from adapters.openmmlab.export.metadata import describe_file

CHANNELS = small_exact.CHANNELS


def rtmdet() -> dict[str, Any]:
    model = Config.fromfile(REPOSITORY / "configs/_base_/models/rtmdet_coco.py").model
    model.backbone = small_exact.backbone(out_indices=(2, 3, 4))
    model.neck.update(in_channels=CHANNELS[1:], out_channels=16, num_csp_blocks=1)
    model.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
    model.test_cfg.update(nms_pre=300, score_thr=0.0, max_per_img=20)
    return model


def atss() -> dict[str, Any]:
    """Anchors, and a factor of the scores: of no recipe of ours, but of the same functions."""
    anchors = dict(
        type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[4, 8, 16, 32, 64]
    )
    coder = dict(type="DeltaXYWHBBoxCoder", target_means=[0.1, 0.0, 0.0, 0.1], target_stds=[0.1, 0.1, 0.2, 0.2])
    model = small_exact.retinanet()
    norm = dict(type="GN", num_groups=4)
    head = dict(type="ATSSHead", num_classes=3, in_channels=16, feat_channels=32, stacked_convs=1, norm_cfg=norm)
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    return {
        **model,
        "type": "ATSS",
        "bbox_head": dict(head, anchor_generator=anchors, bbox_coder=coder, loss_centerness=loss),
    }


def linear() -> dict[str, Any]:
    """A linear probe, by windows."""
    model = Config.fromfile(REPOSITORY / "configs/_base_/models/linear_ade20k.py").model
    model.backbone = small_exact.backbone(out_indices=(-1,))
    model.neck.in_channels = CHANNELS[-1:]
    model.decode_head.update(in_channels=CHANNELS[-1], channels=CHANNELS[-1], num_classes=5)
    model.test_cfg = dict(mode="slide", crop_size=(64, 80), stride=(48, 32))
    return model


def panoptic() -> dict[str, Any]:
    """Mask2Former of mmdet: instances and a panoptic map."""
    head = small_exact.mask2former()["decode_head"]
    for key in ("num_classes", "align_corners", "train_cfg"):
        del head[key]
    head.update(type="Mask2FormerHead", num_things_classes=3, num_stuff_classes=2)
    head.loss_cls.class_weight = [1.0] * 5 + [0.1]
    images = dict(type="DetDataPreprocessor", **small_exact.NORMALISATION, pad_size_divisor=32)
    return dict(
        type="Mask2Former",
        data_preprocessor=images,
        backbone=small_exact.backbone(),
        panoptic_head=head,
        panoptic_fusion_head=dict(type="MaskFormerFusionHead", num_things_classes=3, num_stuff_classes=2),
        test_cfg=dict(panoptic_on=True, instance_on=True, max_per_image=12, object_mask_thr=0.2, iou_thr=0.1),
    )


DENSE = {"RetinaNet": small_exact.retinanet, "FCOS": small_exact.fcos, "RTMDet": rtmdet, "ATSS": atss}
STAGES = {"Mask R-CNN": small_exact.mask_rcnn, "DINO": small_exact.dino, "Mask2Former panoptic": panoptic}
SEGMENTORS = {
    "Semantic FPN": small_exact.semantic_fpn,
    "UPerNet": small_exact.upernet,
    "linear": linear,
    "Mask2Former": small_exact.mask2former,
}


def config(make: Callable[[], dict[str, Any]], **backbone: Any) -> Config:
    """A config with a small model, without padding of each image alone."""
    model = copy.deepcopy(make())
    model["backbone"].update(batch_padding=None, **backbone)
    scope = "mmseg" if model["type"] == "EncoderDecoder" else "mmdet"
    return Config(dict(default_scope=scope, model=model))


def build(cfg: Config) -> nn.Module:
    """The model of a config, randomised, in eval mode."""
    return randomise(small_exact.build(cfg.model, cfg.default_scope)).eval()


def eager(cfg: Config, own: nn.Module, whole: Whole) -> Model:
    """Decode what the modules of the graphs give, as if they were files."""

    def runner(graph: Any) -> Any:
        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            with torch.no_grad():
                outputs = graph.module(*(torch.from_numpy(inputs[name]) for name in graph.inputs))
            return {name: output.numpy() for name, output in zip(graph.outputs, outputs, strict=True)}

        return run

    metadata, _ = describe_file(cfg, own, whole, {})
    return Model(metadata, {graph.name: runner(graph) for graph in whole.graphs})
