# UPerNet on the RoPE ViT-Medium, 160k: windows of 14 patches, four global blocks, and ViTDet's pyramid.
_base_ = [
    "../_base_/models/upernet_ade20k.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k_layer_decay.py",
    "../_base_/runtime/ade20k.py",
]

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        model_name="vit_medium_patch16_rope_reg1_gap_256",
        out_indices=(-1,),
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256),
        drop_path_rate=0.1,
        weights="timm",
    ),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
    auxiliary_head=dict(in_channels=256),
)
