# UPerNet on the RoPE ViT-Betwixt, 160k: four blocks' maps become strides 4, 8, 16 and 32.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k_layer_decay.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    data_preprocessor=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
    backbone=dict(
        model_name="vit_betwixt_patch16_rope_reg4_gap_256",
        out_indices=(2, 5, 8, 11),
        pyramid=dict(type="TapPyramid"),
        drop_path_rate=0.1,
        weights="timm",
    ),
    decode_head=dict(in_channels=[640, 640, 640, 640]),
    auxiliary_head=dict(in_channels=640),
)
