# Mask R-CNN on SwinV2-CR-Small, 3x.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="swinv2_cr_small_ns_224", drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
