# Semantic FPN on Twins-SVT-S, 80k: mIoU 43.2 published, 44.47 by mmseg at twice the batch.
_base_ = [
    "../_base_/models/semantic_fpn_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_80k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(
        model_name="twins_svt_small",
        stage_norm=True,
        window_padding="mmseg",
        drop_path_rate=0.2,
        weights="timm",
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
