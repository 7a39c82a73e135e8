# DINO, four scales, on a frozen DINOv3 ConvNeXt-T, 12 epochs.
_base_ = [
    "../_base_/models/dino_coco.py",
    "../_base_/datasets/coco_detr.py",
    "../_base_/schedules/dino_12e.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="convnext_tiny.dinov3_lvd1689m", frozen_stages=4, weights="timm"),
    neck=dict(in_channels=[192, 384, 768]),
)
