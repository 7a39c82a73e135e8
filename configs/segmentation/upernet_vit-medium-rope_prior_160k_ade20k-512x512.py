# UPerNet on the RoPE ViT-Medium, 160k: cells of a convolutional stem read four blocks.
_base_ = "./upernet_vit-medium-rope_160k_ade20k-512x512.py"

model = dict(backbone=dict(pyramid=dict(type="SpatialPrior", mode="extract")))
