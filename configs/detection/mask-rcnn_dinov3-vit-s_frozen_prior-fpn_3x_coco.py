# Mask R-CNN on a frozen DINOv3 ViT-S/16, 3x: cells of a convolutional stem read four blocks, and stand before the FPN.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
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
    neck=dict(in_channels=[384, 384, 384, 384]),
)
