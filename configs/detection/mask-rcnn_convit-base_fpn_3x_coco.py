# Mask R-CNN on ConViT-Base, 3x: its one stride of 16 becomes 4, 8, 16 and 32 in a pyramid before the
# FPN.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(
        model_name="convit_base",
        out_indices=(-1,),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256),
        drop_path_rate=0.2,
        weights="timm",
    ),
    neck=dict(in_channels=[256, 256, 256, 256]),
)
