# UPerNet on SwinV2-CR-Small, 160k.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(model_name="swinv2_cr_small_ns_224", drop_path_rate=0.3, weights="timm"),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
