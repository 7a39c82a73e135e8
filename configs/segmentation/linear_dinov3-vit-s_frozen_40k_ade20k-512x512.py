# A linear probe on a frozen DINOv3 ViT-S/16: mIoU 47.0 published.
_base_ = [
    "../_base_/models/linear_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/linear_40k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="vit_small_patch16_dinov3", out_norm=True, frozen_stages=12, weights="timm"),
    neck=dict(in_channels=[384]),
    decode_head=dict(in_channels=384, channels=384),
)
