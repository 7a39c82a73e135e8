# UPerNet on ConViT-Small, 160k: four blocks' maps become strides 4, 8, 16 and 32.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(
        model_name="convit_small",
        out_indices=(2, 5, 8, 11),
        pyramid=dict(type="TapPyramid"),
        drop_path_rate=0.1,
        weights="timm",
    ),
    decode_head=dict(in_channels=[432, 432, 432, 432]),
    auxiliary_head=dict(in_channels=432),
)
