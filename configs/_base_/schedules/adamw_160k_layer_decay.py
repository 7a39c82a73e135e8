# 160,000 iterations as UPerNet on plain vision transformers (MAE, arXiv 2111.06377): the learning rate decays layer by
# layer.
_base_ = "./adamw_160k.py"

optim_wrapper = dict(
    constructor="TimmLayerDecayConstructor",
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(_delete_=True, decay_rate=0.65, norm_decay_mult=0.0),
)
