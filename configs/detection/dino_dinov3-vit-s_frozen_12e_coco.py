# DINO, four scales, on a frozen DINOv3 ViT-S/16, 12 epochs.
_base_ = [
    "../_base_/models/dino_coco.py",
    "../_base_/datasets/coco_detr.py",
    "../_base_/schedules/dino_12e.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(
        model_name="vit_small_patch16_dinov3",
        out_indices=(3, 7, 11),
        out_norm=True,
        pyramid=dict(type="TapPyramid", out_channels=256, out_strides=(8, 16, 32)),
        frozen_stages=12,
        weights="timm",
    ),
    neck=dict(in_channels=[256, 256, 256]),
)
# The pyramid is new, unlike the rest of the backbone.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"backbone.pyramid": dict(lr_mult=1.0)}))
