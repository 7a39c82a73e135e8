# Mask R-CNN on Twins-SVT-S, from random weights, on small images: smaller anchors, and boxes that use all levels.
_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/shapes_instance.py",
    "../_base_/schedules/adamw_2k.py",
    "../_base_/runtime/detection.py",
]

model = dict(
    backbone=dict(model_name="twins_svt_small"),
    neck=dict(in_channels=[64, 128, 256, 512]),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(finest_scale=28),
        mask_roi_extractor=dict(finest_scale=28),
    ),
)
