# UPerNet on SwinV2-CR-Tiny, from random weights.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/shapes_semantic.py",
    "../_base_/schedules/adamw_2k.py",
    "../_base_/runtime/segmentation.py",
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(model_name="swinv2_cr_tiny_ns_224"),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
