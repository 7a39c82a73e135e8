# UPerNet on Twins-SVT-S, 160k: mIoU 46.2 published, 47.1 at several scales and flipped.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
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
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
