# Semantic FPN on Twins-SVT-L, 80k: mIoU 46.7 published, 46.55 by mmseg at twice the batch.
_base_ = [
    "../_base_/models/semantic_fpn_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_80k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(
        model_name="twins_svt_large",
        stage_norm=True,
        window_padding="mmseg",
        drop_path_rate=0.3,
        weights="timm",
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
