# Semantic FPN on Twins-SVT-B, 80k: mIoU 45.3 published, 46.77 by mmseg at twice the batch.
_base_ = [
    "../_base_/models/semantic_fpn_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_80k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(
        model_name="twins_svt_base",
        stage_norm=True,
        window_padding="mmseg",
        drop_path_rate=0.2,
        weights="timm",
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
