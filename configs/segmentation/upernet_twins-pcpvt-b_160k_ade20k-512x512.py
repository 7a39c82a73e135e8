# UPerNet on Twins-PCPVT-B, 160k: mIoU 47.1 published, 48.4 at several scales and flipped.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_base", drop_path_rate=0.2, weights="timm"),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
