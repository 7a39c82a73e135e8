# Mask2Former on a frozen DINOv3 ViT-B/16, 160k.
_base_ = [
    "../_base_/models/mask2former_ade20k.py",
    "../_base_/datasets/ade20k_mask2former.py",
    "../_base_/schedules/mask2former_160k.py",
    "../_base_/runtime/ade20k_mask2former.py",
]

model = dict(
    backbone=dict(
        model_name="vit_base_patch16_dinov3",
        out_indices=(2, 5, 8, 11),
        out_norm=True,
        pyramid=dict(type="TapPyramid", out_channels=256),
        frozen_stages=12,
        weights="timm",
    ),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
)
# The pyramid is new, unlike the rest of the backbone.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"backbone.pyramid": dict(lr_mult=1.0)}))
