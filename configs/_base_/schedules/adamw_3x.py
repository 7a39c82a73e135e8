# 36 epochs as Swin and Twins count them: AdamW, no weight decay on norms and Twins' position convolutions, 16 images a
# step.
_base_ = "./twins_1x.py"

max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    optimizer=dict(betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"pos_block": dict(decay_mult=0.0), "norm": dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1),
]
