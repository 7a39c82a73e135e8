# A short training from random weights: what two CPU cores learn in six minutes.
_base_ = "./retinanet_twins-svt-s_fpn_2k_shapes.py"

max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=max_iters, eta_min_ratio=0.01),
]
# Many small steps teach random weights more in the same time than few large ones.
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
auto_scale_lr = dict(base_batch_size=2)
randomness = dict(seed=0)
