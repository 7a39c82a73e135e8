# Semantic FPN for the 150 classes of ADE20K.
_base_ = "./semantic_fpn.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150, norm_cfg=dict(type="SyncBN")),
)
