# UPerNet on Twins-PCPVT-S, 160k: mIoU 46.2 published, 47.5 at several scales and flipped.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_small", drop_path_rate=0.2, weights="timm"),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
