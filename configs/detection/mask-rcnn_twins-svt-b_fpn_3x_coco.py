# Mask R-CNN on Twins-SVT-B, 3x: box AP 48.0, mask AP 43.0 published.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(
        model_name="twins_svt_base",
        stage_norm=True,
        window_padding="zero",
        drop_path_rate=0.2,
        weights="timm",
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
