# UPerNet for the 150 classes of ADE20K, 512 channels wide as in Swin and Twins.
_base_ = "./upernet.py"

norm_cfg = dict(type="SyncBN")
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(channels=512, num_classes=150, norm_cfg=norm_cfg),
    auxiliary_head=dict(num_classes=150, norm_cfg=norm_cfg),
)
