"""Measuring which of timm's models serve as backbones, at which sizes, beside timm's and mmseg's own wrappers."""
