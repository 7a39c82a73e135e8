# UPerNet on Twins-SVT-L, 160k: mIoU 48.8 published, 50.2 at several scales and flipped.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
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
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
