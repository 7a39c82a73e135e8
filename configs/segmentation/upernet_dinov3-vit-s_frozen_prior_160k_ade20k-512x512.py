# UPerNet on a frozen DINOv3 ViT-S/16, 160k: cells of a convolutional stem read four blocks.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(
        model_name="vit_small_patch16_dinov3",
        out_indices=(2, 5, 8, 11),
        out_norm=True,
        pyramid=dict(type="SpatialPrior", mode="extract"),
        frozen_stages=12,
        weights="timm",
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
