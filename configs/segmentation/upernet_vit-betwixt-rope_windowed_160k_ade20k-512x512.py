# UPerNet on the RoPE ViT-Betwixt, 160k: windows of 14 patches, four global blocks, and ViTDet's pyramid.
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
