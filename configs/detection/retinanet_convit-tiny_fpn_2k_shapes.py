# RetinaNet on ConViT-Tiny: its one stride of 16 becomes 8, 16 and 32 in a pyramid before the FPN.
_base_ = "./retinanet_twins-svt-s_fpn_2k_shapes.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="TimmAdapter",
        model_name="convit_tiny",
        out_indices=(-1,),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, out_strides=(8, 16, 32)),
    ),
    neck=dict(in_channels=[256, 256, 256], start_level=0),
)
