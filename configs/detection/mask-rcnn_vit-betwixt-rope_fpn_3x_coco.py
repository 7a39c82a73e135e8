# Mask R-CNN on the RoPE ViT-Betwixt, 3x: every block attends the whole image; a pyramid stands before the FPN.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    data_preprocessor=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
    backbone=dict(
        model_name="vit_betwixt_patch16_rope_reg4_gap_256",
        out_indices=(-1,),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256),
        drop_path_rate=0.1,
        weights="timm",
    ),
    neck=dict(in_channels=[256, 256, 256, 256]),
)
