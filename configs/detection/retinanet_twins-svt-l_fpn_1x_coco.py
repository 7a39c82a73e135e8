# RetinaNet on Twins-SVT-L, 1x: box AP 45.7 published.
_base_ = [
    "../_base_/models/retinanet_fpn_coco.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/twins_1x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(
        model_name="twins_svt_large",
        stage_norm=True,
        window_padding="zero",
        drop_path_rate=0.2,
        weights="timm",
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
