# A linear probe on a frozen DINOv3 ViT-B/16: mIoU 51.8 published.
_base_ = [
    "../_base_/models/linear_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/linear_40k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="vit_base_patch16_dinov3", out_norm=True, frozen_stages=12, weights="timm"),
    neck=dict(in_channels=[768]),
    decode_head=dict(in_channels=768, channels=768),
)
