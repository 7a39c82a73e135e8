# UPerNet on ConViT-Base, 160k: four blocks' maps become strides 4, 8, 16 and 32.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    backbone=dict(
        model_name="convit_base",
        out_indices=(2, 5, 8, 11),
        pyramid=dict(type="TapPyramid"),
        drop_path_rate=0.2,
        weights="timm",
    ),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768),
)
