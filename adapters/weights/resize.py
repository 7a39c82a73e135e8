"""Adapting a first convolution to other channels and position embeddings to another grid, as timm does."""

import math
from typing import Any

from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor

from adapters.weights.interpret import Interpretation


def resize(name: str, tensor: Tensor, target: Tensor, interpretation: Interpretation, in_channels: int) -> Tensor:
    """Return a checkpoint's tensor in the shape of the model's where timm knows how, and unchanged elsewhere.

    Args:
        name: timm's name of it.
        tensor: a first convolution ``(O, C_in, k, k)``, position embeddings ``(1, L, C)``, or anything else, such
            as the weight ``(O, C)`` of a linear layer for a 1 x 1 convolution.
        target: the model's tensor of this name.
        interpretation: the checkpoint, with the size that its position embeddings are for, if that is known.
        in_channels: channels of the model's images.

    Raises:
        ValueError: that size does not go with the number of position embeddings.
    """
    embed: Any = getattr(interpretation.info.model, "patch_embed", None)
    if name == "pos_embed" and hasattr(embed, "grid_size") and _are_positions(tensor, target):
        return _resample_positions(tensor, target, embed, interpretation.img_size)
    if tensor.shape != target.shape and name in interpretation.info.first_convs and tensor.ndim == 4:
        try:
            return adapt_input_conv(in_channels, tensor)
        except NotImplementedError:
            return tensor
    if tensor.shape != target.shape and _without_ones(tensor) == _without_ones(target):
        return tensor.reshape(target.shape)
    return tensor


def resize_hint(name: str, tensor: Tensor, target: Tensor, interpretation: Interpretation) -> str:
    """Return the remedy for a tensor that :func:`resize` could not bring into the model's shape, if there is one.

    Args:
        name: timm's name of it.
        tensor: the checkpoint's, ``(1, L_old, C)`` or ``(O, C_old, k, k)`` where there is a remedy.
        target: the model's, ``(1, L, C)`` or ``(O, C_in, k, k)``.
        interpretation: the checkpoint.
    """
    if name == "pos_embed" and tensor.ndim == 3 and tensor.shape[-1] == target.shape[-1]:
        return (
            "; no square grid has so many positions: say at which size it was trained, "
            "init_cfg=dict(type='Pretrained', checkpoint=..., img_size=(H, W))"
        )
    if name in interpretation.info.first_convs and tensor.ndim == target.ndim:
        return "; channels other than 3 cannot be adapted, build the adapter with the checkpoint's in_channels"
    return ""


def _without_ones(tensor: Tensor) -> list[int]:
    """List the dimensions that count; a linear layer's weight and a 1 x 1 convolution's have the same."""
    return [size for size in tensor.shape if size != 1]


def _are_positions(tensor: Tensor, target: Tensor) -> bool:
    return tensor.ndim == target.ndim == 3 and tensor.shape[-1] == target.shape[-1]


def _resample_positions(tensor: Tensor, target: Tensor, embed: Any, img_size: tuple[int, int] | None) -> Tensor:
    """``(1, L_old, C)`` -> ``(1, L, C)``, from the grid of ``img_size`` or from a square one; unchanged without."""
    grid = tuple(embed.grid_size)
    prefix_tokens = target.shape[1] - grid[0] * grid[1]
    patches = tensor.shape[1] - prefix_tokens
    old_grid: tuple[int, ...] | None = None
    if img_size is not None:
        old_grid = tuple(side // patch for side, patch in zip(img_size, embed.patch_size, strict=True))
        if math.prod(old_grid) != patches:
            raise ValueError(
                f"img_size={img_size} means a grid of {old_grid[0]} x {old_grid[1]} patches, but the checkpoint's "
                f"position embeddings are {patches}; give the size at which it was trained."
            )
    elif tensor.shape == target.shape or patches < 0 or math.isqrt(patches) ** 2 != patches:
        return tensor
    return resample_abs_pos_embed(tensor, grid, old_grid, num_prefix_tokens=prefix_tokens)
