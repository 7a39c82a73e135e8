# Mask R-CNN on Twins-PCPVT-L, 1x: box AP 45.4, mask AP 41.5 published.
_base_ = [
    "../_base_/models/mask_rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/twins_1x.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="twins_pcpvt_large", drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
