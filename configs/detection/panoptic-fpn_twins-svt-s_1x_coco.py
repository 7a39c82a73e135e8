# Panoptic FPN on Twins-SVT-S, 1x.
_base_ = [
    "../_base_/models/panoptic_fpn_coco.py",
    "../_base_/datasets/coco_panoptic.py",
    "../_base_/schedules/twins_1x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="twins_svt_small", stage_norm=True, drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
