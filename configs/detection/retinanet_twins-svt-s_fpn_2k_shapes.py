# RetinaNet on Twins-SVT-S, from random weights, on small images: a lighter neck and head, and the norms without which
# random weights learn slowly.
_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/shapes_detection.py",
    "../_base_/schedules/adamw_2k.py",
    "../_base_/runtime/detection.py",
]

norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    backbone=dict(model_name="twins_svt_small", stage_norm=True),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, num_outs=4, norm_cfg=norm_cfg),
    bbox_head=dict(
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(strides=[8, 16, 32, 64]),
    ),
)
