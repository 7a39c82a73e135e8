# A linear probe for the 150 classes of ADE20K: batch norm and a 1x1 convolution on the last map of a frozen backbone. A
# recipe adds backbone.model_name and frozen_stages, and the map's channels: in_channels of neck and head, and channels.
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(type="TimmAdapter", out_indices=(-1,), weights=None),
    neck=dict(type="LevelBatchNorm"),
    decode_head=dict(
        type="FCNHead",
        in_index=0,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=None,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
