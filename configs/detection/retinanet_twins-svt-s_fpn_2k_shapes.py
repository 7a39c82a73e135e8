# RetinaNet on Twins-SVT-S, from random weights, on small images: smaller anchors, and a lighter neck and head.
_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/shapes_detection.py",
    "../_base_/schedules/adamw_2k.py",
    "../_base_/runtime/detection.py",
]

model = dict(
    backbone=dict(model_name="twins_svt_small"),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, num_outs=4),
    bbox_head=dict(
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=3, strides=[8, 16, 32, 64]),
    ),
)
