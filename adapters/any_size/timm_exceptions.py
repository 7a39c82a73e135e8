"""timm's model as built for an image size, without memory, and the classes of timm that need code of their own for it.

timm's MViTv2 and NesT build squares only, EfficientFormer one size only, CrossViT miscounts its patches off the square.
"""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import checkpoint_seq
from timm.models.crossvit import CrossVit
from timm.models.efficientformer import Attention as EfficientFormerAttention
from timm.models.efficientformer import EfficientFormer
from timm.models.mvitv2 import MultiScaleVit
from timm.models.nest import Nest, NestLevel
from torch import Tensor, nn

from adapters.trunk.build import build_trunk, split_tag

Size = tuple[int, int]


def build_at_size(model_name: str, in_channels: int, arguments: Mapping[str, Any], size: Size) -> nn.Module:
    """Build the model for images of ``size``, its parameters on the ``meta`` device.

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
    """Combine a tall and a wide MViTv2: it keeps a table for each axis, and only its constructor asks for squares."""
    others = dict(wide.named_modules())
    for name, module in tall.named_modules():
        if "rel_pos_w" in module._parameters:
            module._parameters["rel_pos_w"] = others[name]._parameters["rel_pos_w"]
    return tall


def _nest(tall: Nest, wide: Nest) -> nn.Module:
    """Combine a tall and a wide NesT: 4 x 4, 2 x 2 and one block whatever the size, but blocks with two sides."""
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
    """Set the grid of the last stage, of stride 32; timm's constructor takes ``img_size`` and keeps its 7 x 7."""
    resolution = (-(-size[0] // 32), -(-size[1] // 32))
    for module in model.modules():
        if isinstance(module, EfficientFormerAttention):
            module.resolution = resolution
            heads = module.num_heads
            module.attention_biases = nn.Parameter(torch.empty(heads, resolution[0] * resolution[1], device="meta"))
            module.register_buffer("attention_bias_idxs", absolute_offsets(resolution))


def _count_crossvit_patches(model: CrossVit) -> None:
    """Size the tables of both branches for the patches that there are; timm's own count is wrong off the square."""
    grids = {}
    for branch, embed in enumerate(model.patch_embed):
        key = f"pos_embed_{branch}"
        grids[key] = (embed.img_size[0] // embed.patch_size[0], embed.img_size[1] // embed.patch_size[1])
        channels = model._parameters[key].shape[-1]
        tokens = 1 + grids[key][0] * grids[key][1]
        model._parameters[key] = nn.Parameter(torch.empty(1, tokens, channels, device="meta"))
    model.position_grids = grids


def absolute_offsets(resolution: Size) -> Tensor:
    """Index, for each pair of the N cells of a grid, its ``(|dy|, |dx|)`` in a table of that grid, ``(N, N)``."""
    rows, columns = (torch.arange(side, device="cpu") for side in resolution)
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
    offsets = (cells[:, :, None] - cells[:, None, :]).abs()
    return offsets[0] * resolution[1] + offsets[1]


class RectangularLevel(NestLevel):
    """A level of NesT whose ``block_size`` is ``(h, w)``."""

    #: Sides of a block, or one for both where timm has built it so.
    block_size: int | Size

    def forward(self, x: Tensor) -> Tensor:
        """Halve the map in all but the first level, and run the blocks, ``(B, C, H, W)`` -> ``(B, C', H', W')``."""
        x = self.pool(x).permute(0, 2, 3, 1)
        block = (self.block_size, self.block_size) if isinstance(self.block_size, int) else self.block_size
        size = (x.shape[1], x.shape[2])
        blocks = split_blocks(x, block) + self.pos_embed
        if self.grad_checkpointing and torch.is_grad_enabled():
            blocks = checkpoint_seq(self.transformer_encoder, blocks)
        else:
            blocks = self.transformer_encoder(blocks)
        return join_blocks(blocks, size, block).permute(0, 3, 1, 2)


def split_blocks(x: Tensor, block: Size) -> Tensor:
    """Cut a map into T blocks of ``h x w``, ``(B, H, W, C)`` -> ``(B, T, h * w, C)``."""
    return x.unflatten(2, (-1, block[1])).unflatten(1, (-1, block[0])).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_blocks(x: Tensor, size: Size, block: Size) -> Tensor:
    """Join the blocks of a map of ``size``, ``(B, T, h * w, C)`` -> ``(B, H, W, C)``."""
    rows, columns = size[0] // block[0], size[1] // block[1]
    x = x.unflatten(2, block).unflatten(1, (rows, columns)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)
