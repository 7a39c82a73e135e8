# Mask R-CNN on the RoPE ViT-Base, 3x: cells of a convolutional stem read four blocks, and stand before the FPN.
_base_ = "./mask-rcnn_vit-base-rope_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        out_indices=(2, 5, 8, 11),
        pyramid=dict(_delete_=True, type="SpatialPrior", mode="extract", out_channels=256),
    ),
)
