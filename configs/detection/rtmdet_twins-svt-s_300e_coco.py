# RTMDet's neck, head and augmentation on Twins-SVT-S, 300 epochs.
_base_ = [
    "../_base_/models/rtmdet_coco.py",
    "../_base_/datasets/coco_rtmdet.py",
    "../_base_/schedules/rtmdet_300e.py",
    "../_base_/runtime/coco.py",
]

model = dict(
    backbone=dict(model_name="twins_svt_small", stage_norm=True, drop_path_rate=0.2, weights="timm"),
    neck=dict(in_channels=[128, 256, 512]),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(type="PipelineSwitchHook", switch_epoch=280, switch_pipeline=_base_.train_pipeline_stage2),
]
