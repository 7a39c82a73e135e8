# DINO, four scales, on a DINOv3 ViT-B/16 with low-rank factors in its attention (LoRA), 12 epochs.
_base_ = "dino_dinov3-vit-b_frozen_12e_coco.py"

model = dict(backbone=dict(frozen_stages=-1, peft=dict(type="LoRA", r=8, alpha=16, targets="attention")))
# All that trains of the backbone is new.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=1.0)}))
