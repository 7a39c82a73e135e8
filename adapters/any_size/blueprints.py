"""timm's model as built for an image size, without memory, also where timm itself builds squares or one size only."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.crossvit import CrossVit
from timm.models.efficientformer import Attention as EfficientFormerAttention
from timm.models.efficientformer import EfficientFormer
from timm.models.mvitv2 import MultiScaleVit
from timm.models.nest import Nest
from torch import Tensor, nn

from adapters.trunk.build import build_trunk, split_tag

Size = tuple[int, int]


def draw(model_name: str, in_channels: int, arguments: Mapping[str, Any], size: Size) -> nn.Module:
    """The model for images of ``size``, its parameters on the ``meta`` device.

    Raises:
        UnsupportedSizingError: the model's class does not know image sizes.
        ValueError: timm refuses the size.
    """

    def build(height: int, width: int) -> nn.Module:
        with torch.device("meta"):
            name = split_tag(model_name)[0]
            return build_trunk(name, in_channels, 0.0, arguments, {"img_size": (height, width)})

    try:
        model = build(*size)
    except AssertionError as refusal:
        tall, wide = build(size[0], size[0]), build(size[1], size[1])
        if isinstance(tall, MultiScaleVit):
            return _multi_scale_vit(tall, wide)
        if isinstance(tall, Nest) and isinstance(wide, Nest):
            return _nest(tall, wide)
        raise ValueError(f"timm cannot build {model_name} for {size[0]} x {size[1]}: {refusal}") from refusal
    if isinstance(model, EfficientFormer):
        _set_efficientformer_size(model, size)
    if isinstance(model, CrossVit):
        _count_crossvit_patches(model)
    return model


def _multi_scale_vit(tall: nn.Module, wide: nn.Module) -> nn.Module:
    """timm keeps a table for each axis; only its constructor asks for squares."""
    others = dict(wide.named_modules())
    for name, module in tall.named_modules():
        if "rel_pos_w" in module._parameters:
            module._parameters["rel_pos_w"] = others[name]._parameters["rel_pos_w"]
    return tall


def _nest(tall: Nest, wide: Nest) -> nn.Module:
    """4 x 4, 2 x 2 and one block whatever the size, as timm has it, but blocks with two sides."""
    embed, across = tall.patch_embed, wide.patch_embed
    embed.img_size = (embed.img_size[0], across.img_size[1])
    embed.grid_size = (embed.grid_size[0], across.grid_size[1])
    embed.num_patches = embed.grid_size[0] * embed.grid_size[1]
    for level, other in zip(tall.levels, wide.levels, strict=True):
        sides = (level.block_size, other.block_size)
        level.block_size = sides
        _, blocks, _, channels = level.pos_embed.shape
        level.pos_embed = nn.Parameter(torch.empty(1, blocks, sides[0] * sides[1], channels, device="meta"))
    return tall


def _set_efficientformer_size(model: nn.Module, size: Size) -> None:
    """timm's constructor takes ``img_size`` and keeps its 7 x 7; the last stage has stride 32."""
    resolution = (-(-size[0] // 32), -(-size[1] // 32))
    for module in model.modules():
        if isinstance(module, EfficientFormerAttention):
            module.resolution = resolution
            heads = module.num_heads
            module.attention_biases = nn.Parameter(torch.empty(heads, resolution[0] * resolution[1], device="meta"))
            module.register_buffer("attention_bias_idxs", absolute_offsets(resolution))


def _count_crossvit_patches(model: CrossVit) -> None:
    """The tables of both branches for the patches that there are; timm's own count is wrong off the square."""
    grids = {}
    for branch, embed in enumerate(model.patch_embed):
        key = f"pos_embed_{branch}"
        grids[key] = (embed.img_size[0] // embed.patch_size[0], embed.img_size[1] // embed.patch_size[1])
        channels = model._parameters[key].shape[-1]
        tokens = 1 + grids[key][0] * grids[key][1]
        model._parameters[key] = nn.Parameter(torch.empty(1, tokens, channels, device="meta"))
    model.position_grids = grids


def absolute_offsets(resolution: Size) -> Tensor:
    """``(N, N)``, for each pair of the N cells of a grid the index of its ``(|dy|, |dx|)`` in a table of that grid."""
    rows, columns = (torch.arange(side, device="cpu") for side in resolution)
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
    offsets = (cells[:, :, None] - cells[:, None, :]).abs()
    return offsets[0] * resolution[1] + offsets[1]
