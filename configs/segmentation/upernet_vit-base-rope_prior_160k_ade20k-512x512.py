# UPerNet on the RoPE ViT-Base, 160k: cells of a convolutional stem read four blocks.
_base_ = "./upernet_vit-base-rope_160k_ade20k-512x512.py"

model = dict(backbone=dict(pyramid=dict(type="SpatialPrior", mode="extract")))
