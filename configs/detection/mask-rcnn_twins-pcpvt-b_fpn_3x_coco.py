# Mask R-CNN on Twins-PCPVT-B, 3x: box AP 47.9, mask AP 43.2 published.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_base", drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
