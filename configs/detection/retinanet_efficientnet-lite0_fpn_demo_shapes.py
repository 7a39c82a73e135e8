# The demo (`make demo`): RetinaNet on EfficientNet-Lite0, for what two CPU cores learn in two minutes.
_base_ = "./retinanet_twins-svt-s_fpn_2k_shapes.py"

max_iters = 300
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=30, end=max_iters, eta_min_ratio=0.01),
]
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(_delete_=True, type="TimmAdapter", model_name="tf_efficientnet_lite0", weights=None),
    neck=dict(in_channels=[24, 40, 112, 320]),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
randomness = dict(seed=0)
