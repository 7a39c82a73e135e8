# RetinaNet on Twins-SVT-S, 3x: box AP 45.6 published.
_base_ = [
    "../_base_/models/retinanet_fpn_coco.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(
        model_name="twins_svt_small",
        stage_norm=True,
        window_padding="zero",
        drop_path_rate=0.2,
        weights="timm",
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
