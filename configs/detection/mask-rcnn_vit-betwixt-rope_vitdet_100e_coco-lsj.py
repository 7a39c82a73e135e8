# ViTDet on the RoPE ViT-Betwixt: windows of 14 patches, four global blocks, layer-wise learning-rate decay.
_base_ = [
    "../_base_/models/vitdet.py",
    "../_base_/datasets/coco_lsj.py",
    "../_base_/schedules/vitdet_100e.py",
    "../_base_/runtime/coco_iterations.py",
]

model = dict(
    data_preprocessor=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
    backbone=dict(
        model_name="vit_betwixt_patch16_rope_reg4_gap_256",
        global_blocks=(2, 5, 8, 11),
        drop_path_rate=0.1,
        weights="timm",
    ),
)
