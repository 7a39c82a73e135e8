# Mask2Former on a DINOv3 ViT-B/16 with low-rank factors in its attention (LoRA), 160k.
_base_ = "mask2former_dinov3-vit-b_frozen_160k_ade20k-512x512.py"

model = dict(backbone=dict(frozen_stages=-1, peft=dict(type="LoRA", r=8, alpha=16, targets="attention")))
# All that trains of the backbone is new.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=1.0)}))
