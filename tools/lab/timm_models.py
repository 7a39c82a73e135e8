"""timm's own models for one image size with the weights of a trunk: references that do not import the package."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn


def copy_weights(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a timm model the tensors of a trunk, in place; return it in eval mode.

    Position embeddings ``(1, N, C)`` are resampled to the model's own grid. Tensors that the state lacks, such as those
    of the classifier, keep their values.
    """
    own = dict(model.state_dict())
    for key, tensor in state.items():
        if key == "pos_embed" and tensor.shape != own[key].shape:
            grid: Any = model.patch_embed.grid_size
            prefix = own[key].shape[1] - grid[0] * grid[1]
            tensor = resample_abs_pos_embed(tensor, list(grid), num_prefix_tokens=prefix)
        own[key] = tensor
    model.load_state_dict(own)
    return model.eval()


def set_convit_grid(model: nn.Module, grid: tuple[int, int]) -> nn.Module:
    """Give timm's ConViT the (dx, dy) of an ``H x W`` grid, in place; return it.

    timm's table of relative positions ``(1, N, N, 3)`` takes every grid for a square one.
    """
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x.flatten().float(), y.flatten().float()
    dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
    table = torch.stack((dx, dy, dx.square() + dy.square()), dim=-1).unsqueeze(0)
    for block in model.blocks:
        if block.use_gpsa:
            block.attn.rel_indices = table
    return model
