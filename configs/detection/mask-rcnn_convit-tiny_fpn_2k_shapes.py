# Mask R-CNN on ConViT-Tiny: its one stride of 16 becomes 4, 8, 16 and 32 in a pyramid before the FPN.
_base_ = "./mask-rcnn_twins-svt-s_fpn_2k_shapes.py"

model = dict(
    backbone=dict(
        model_name="convit_tiny",
        out_indices=(-1,),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256),
    ),
    neck=dict(in_channels=[256, 256, 256, 256]),
)
