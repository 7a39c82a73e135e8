# Mask R-CNN as ViTDet has it (arXiv 2203.16527): windowed blocks with four global ones, the simple feature pyramid in
# place of an FPN, two convolutions in the RPN, and layer norms in the heads. A recipe adds backbone.model_name.
_base_ = "./mask_rcnn_fpn_coco.py"

norm_cfg = dict(type="MapNorm", eps=1e-6)
model = dict(
    data_preprocessor=dict(batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)]),
    backbone=dict(
        out_indices=(-1,),
        window_size=14,
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, extra_level=True),
    ),
    neck=None,
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
