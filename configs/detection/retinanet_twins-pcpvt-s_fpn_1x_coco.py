# RetinaNet on Twins-PCPVT-S, 1x: box AP 43.0 published.
_base_ = [
    "../_base_/models/retinanet_fpn_coco.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/twins_1x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_small", drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
