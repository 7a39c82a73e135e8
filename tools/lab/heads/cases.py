"""The configs of the measurement: our recipes' heads at their full width, on backbones of full width and few blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from adapters.openmmlab.run import register_scope
from adapters.trunk.build import build_without_data

MODELS_FOLDER = Path(__file__).resolve().parents[3] / "configs" / "_base_" / "models"

#: Backbones by name, few blocks each. Those of a single stride have a pyramid.
BACKBONES: dict[str, dict[str, Any]] = {
    "Twins-SVT": {"model_name": "twins_svt_small", "trunk": {"depths": [1, 1, 2, 1]}},
    "PCPVT": {"model_name": "twins_pcpvt_small", "trunk": {"depths": [1, 1, 2, 1]}},
    "SwinV2-CR": {"model_name": "swinv2_cr_tiny_ns_224", "trunk": {"depths": (2, 1, 2, 1)}},
    "RoPE ViT": {"model_name": "vit_medium_patch16_rope_reg1_gap_256", "trunk": {"depth": 3}},
    "ConViT": {"model_name": "convit_tiny", "trunk": {"depth": 4, "local_up_to_layer": 2}},
    "DINOv3": {"model_name": "vit_small_patch16_dinov3", "trunk": {"depth": 3}},
    "ResNet": {"model_name": "resnet18", "trunk": {"layers": [1, 1, 1, 1]}},
}
#: Backbones of one stride.
TOKENS = ("RoPE ViT", "ConViT", "DINOv3")

CLASSES = 8
DETECTION = {"score_thr": 0.05, "nms_pre": 300, "max_per_img": 50}

Make = Callable[[str], Config]


def backbone(name: str, strides: tuple[int, ...]) -> tuple[dict[str, Any], list[int]]:
    """Return the config of a backbone with maps of these strides, and the channels of the maps."""
    config = {"type": "TimmAdapter", **BACKBONES[name]}
    if name in TOKENS and len(strides) == 1:
        config["out_indices"] = (-1,)
    elif name in TOKENS:
        config["out_indices"] = (-1,)
        config["pyramid"] = dict(type="SimpleFeaturePyramid", out_channels=128, out_strides=strides)
    else:
        first = 1 if name == "ResNet" else 0
        config["out_indices"] = [first + (4, 8, 16, 32).index(stride) for stride in strides]
    levels = build_without_data(lambda: MODELS.build(dict(config))).levels
    assert len(levels) == len(strides)
    return config, [level.channels for level in levels]


def _recipe(file: str, scope: str, name: str, strides: tuple[int, ...] = (4, 8, 16, 32)) -> tuple[Config, list[int]]:
    cfg = Config.fromfile(MODELS_FOLDER / file)
    cfg.default_scope = scope
    register_scope(cfg)
    cfg.model.backbone, channels = backbone(name, strides)
    return cfg, channels


def retinanet(name: str) -> Config:
    """RetinaNet."""
    cfg, channels = _recipe("retinanet_fpn_coco.py", "mmdet", name)
    cfg.model.neck.in_channels = channels
    cfg.model.bbox_head.num_classes = CLASSES
    cfg.model.test_cfg.update(DETECTION)
    return cfg


def fcos(name: str) -> Config:
    """FCOS, which has no recipe of ours, on RetinaNet's neck."""
    cfg = retinanet(name)
    cfg.model.type = "FCOS"
    head = dict(type="FCOSHead", num_classes=CLASSES, in_channels=256, stacked_convs=4, feat_channels=256)
    norm = dict(type="GN", num_groups=32)
    cfg.model.bbox_head = dict(head, strides=[8, 16, 32, 64, 128], norm_cfg=norm, norm_on_bbox=True)
    del cfg.model.train_cfg
    return cfg


def rtmdet(name: str) -> Config:
    """RTMDet."""
    cfg, channels = _recipe("rtmdet_coco.py", "mmdet", name, (8, 16, 32))
    cfg.model.neck.update(in_channels=channels, num_csp_blocks=1)
    cfg.model.bbox_head.num_classes = CLASSES
    cfg.model.test_cfg.update(DETECTION)
    return cfg


def semantic_fpn(name: str) -> Config:
    """Semantic FPN."""
    cfg, channels = _recipe("semantic_fpn_ade20k.py", "mmseg", name)
    cfg.model.neck.in_channels = channels
    return cfg


def upernet(name: str) -> Config:
    """UPerNet."""
    cfg, channels = _recipe("upernet_ade20k.py", "mmseg", name)
    cfg.model.decode_head.in_channels = channels
    cfg.model.auxiliary_head.in_channels = channels[2]
    return cfg


def linear(name: str) -> Config:
    """A linear probe, by windows."""
    cfg, channels = _recipe("linear_ade20k.py", "mmseg", name, (16,))
    cfg.model.neck.in_channels = channels
    cfg.model.decode_head.update(in_channels=channels[0], channels=channels[0])
    cfg.model.test_cfg = dict(mode="slide", crop_size=(192, 192), stride=(128, 128))
    return cfg


def mask_rcnn(name: str) -> Config:
    """Mask R-CNN."""
    cfg, channels = _recipe("mask_rcnn_fpn_coco.py", "mmdet", name)
    cfg.model.neck.in_channels = channels
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = CLASSES
    cfg.model.test_cfg.rpn.update(nms_pre=300, max_per_img=100)
    cfg.model.test_cfg.rcnn.update(max_per_img=20)
    return cfg


def dino(name: str) -> Config:
    """DINO, two layers of its encoder and two of its decoder."""
    cfg, channels = _recipe("dino_coco.py", "mmdet", name, (8, 16, 32))
    cfg.model.neck.in_channels = channels
    cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    cfg.model.bbox_head.num_classes = CLASSES
    cfg.model.update(num_queries=100, test_cfg=dict(max_per_img=50))
    return cfg


def mask2former(name: str) -> Config:
    """Mask2Former, two layers of its pixel decoder and three of its decoder."""
    cfg, channels = _recipe("mask2former_ade20k.py", "mmseg", name)
    cfg.model.decode_head.in_channels = channels
    cfg.model.decode_head.pixel_decoder.encoder.num_layers = 2
    cfg.model.decode_head.transformer_decoder.num_layers = 3
    return cfg


DENSE: dict[str, Make] = {
    "RetinaNet": retinanet,
    "FCOS": fcos,
    "RTMDet": rtmdet,
    "Semantic FPN": semantic_fpn,
    "UPerNet": upernet,
    "linear": linear,
}
QUERIES: dict[str, Make] = {"Mask R-CNN": mask_rcnn, "DINO": dino, "Mask2Former": mask2former}
#: Backbones of the two-stage and query heads.
QUERY_BACKBONES = ("Twins-SVT", "RoPE ViT", "ResNet")

#: Every case: head, backbone, and what makes the config.
CASES: dict[str, tuple[str, str, Make]] = {
    f"{head} on {name}": (head, name, make)
    for heads, names in ((DENSE, tuple(BACKBONES)), (QUERIES, QUERY_BACKBONES))
    for head, make in heads.items()
    for name in names
}
