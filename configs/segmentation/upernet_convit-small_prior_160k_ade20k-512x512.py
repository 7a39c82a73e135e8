# UPerNet on ConViT-Small, 160k: a convolutional stem is joined with four blocks' maps.
_base_ = "./upernet_convit-small_160k_ade20k-512x512.py"

model = dict(backbone=dict(pyramid=dict(type="SpatialPrior", mode="concat")))
