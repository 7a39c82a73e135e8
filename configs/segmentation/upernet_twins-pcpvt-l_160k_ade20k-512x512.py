# UPerNet on Twins-PCPVT-L, 160k: mIoU 48.6 published, 49.8 at several scales and flipped.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_large", drop_path_rate=0.3, weights="timm"),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
