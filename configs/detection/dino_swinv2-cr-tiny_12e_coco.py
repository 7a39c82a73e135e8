# DINO, four scales, on SwinV2-CR-Tiny, 12 epochs.
_base_ = [
    "../_base_/models/dino_coco.py",
    "../_base_/datasets/coco_detr.py",
    "../_base_/schedules/dino_12e.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="swinv2_cr_tiny_ns_224", drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[192, 384, 768]),
)
