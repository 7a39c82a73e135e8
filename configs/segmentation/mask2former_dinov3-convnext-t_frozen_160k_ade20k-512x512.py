# Mask2Former on a frozen DINOv3 ConvNeXt-T, 160k.
_base_ = [
    "../_base_/models/mask2former_ade20k.py",
    "../_base_/datasets/ade20k_mask2former.py",
    "../_base_/schedules/mask2former_160k.py",
    "../_base_/runtime/ade20k_mask2former.py",
]

model = dict(
    backbone=dict(model_name="convnext_tiny.dinov3_lvd1689m", frozen_stages=4, weights="timm"),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
