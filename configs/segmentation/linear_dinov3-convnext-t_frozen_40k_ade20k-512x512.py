# A linear probe on a frozen DINOv3 ConvNeXt-T: mIoU 42.7 published.
_base_ = [
    "../_base_/models/linear_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/linear_40k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="convnext_tiny.dinov3_lvd1689m", frozen_stages=4, weights="timm"),
    neck=dict(in_channels=[768]),
    decode_head=dict(in_channels=768, channels=768),
)
