# Semantic FPN on Twins-PCPVT-B, 80k: mIoU 44.9 published, 45.66 by mmseg at twice the batch.
_base_ = [
    "../_base_/models/semantic_fpn_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_80k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_base", drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
