# Mask R-CNN on ConViT-Small, 3x: a convolutional stem is joined with four blocks' maps, and stands before the FPN.
_base_ = "./mask-rcnn_convit-small_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        out_indices=(2, 5, 8, 11),
        pyramid=dict(_delete_=True, type="SpatialPrior", mode="concat", out_channels=256),
    ),
)
