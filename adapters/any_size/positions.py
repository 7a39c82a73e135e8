"""Positional tables at another image size, resampled as the authors of each kind do when they change the size.

A resampling is differentiable and takes the table itself, so that training at any size trains the one table.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc, resize_rel_pos_bias_table
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from adapters.any_size.timm_exceptions import join_blocks, split_blocks

Size = tuple[int, int]
Resampling = Callable[[Tensor], Tensor]

#: Class, distillation and register tokens that may stand before the grid.
MOST_PREFIX_TOKENS = 16


def resampling_of(name: str, key: str, old: nn.Module, new: nn.Module, old_size: Size, new_size: Size) -> Resampling:
    """Choose the resampling that turns a positional table, of any shape, into that of another image size.

    Args:
        name: of the parameter, for messages.
        key: its name in its module.
        old: the module as built for ``old_size``, without values.
        new: the same for ``new_size``.
        old_size: ``(H, W)`` in pixels.
        new_size: ``(H, W)`` in pixels.

    Raises:
        ValueError: the parameter is not a positional table, so no other size has a meaning for it.
    """
    before, after = _shape(old, key), _shape(new, key)
    if key == "relative_position_bias_table":
        return _relative_bias(_pair(old.window_size), _pair(new.window_size), before)
    if key.startswith(("rel_pos_", "height_rel", "width_rel")) and len(before) == 2:
        return lambda table: _resize(table.t()[None], after[:1], "linear")[0].t()
    if key == "attention_biases" and len(before) == 2:
        # Of the absolute offsets (dy, dx), as timm's filter for EfficientViT resizes them.
        grid, target = _pair(old.resolution), _pair(new.resolution)
        return lambda table: _resize(table.view(1, -1, *grid), target, "bicubic", antialias=True).flatten(2)[0]
    if key == "pos_emb" and len(before) == 3 and before[2] == after[2]:
        # Of the relative offsets (dy, dx): LambdaNetworks.
        return lambda table: _resize(table.permute(2, 0, 1)[None], after[:2], "bilinear")[0].permute(1, 2, 0)
    if key == "pos_embed" and len(before) == 2 and before[1] == after[1]:
        # Of CLIP's attention pooling.
        grids = _grids(before[0], after[0], old_size, new_size)
        if grids is not None:
            prefix, grid, target = grids
            return lambda table: resample_abs_pos_embed(table[None], list(target), list(grid), prefix)[0]
    if len(before) == 4 and before[0] == 1 and before[:2] == after[:2] and before[2:] != after[2:]:
        if before[3] == after[3]:
            return _blocks(before[1], _pair(old.block_size), _pair(new.block_size))
        return lambda table: _resize(table, after[2:], "bicubic", antialias=True)
    if len(before) == 4 and before[0] == 1 and before[3] == after[3]:
        return lambda table: resample_abs_pos_embed_nhwc(table, list(after[1:3]))
    if len(before) == 3 and before[0] == 1 and before[2] == after[2]:
        grids = _known_grids(key, old, new, before[1]) or _grids(before[1], after[1], old_size, new_size)
        if grids is not None:
            prefix, grid, target = grids
            return lambda table: resample_abs_pos_embed(table, list(target), list(grid), prefix)
    raise ValueError(
        f"{name} has the shape {before} for images of {old_size[0]} x {old_size[1]}: it is no table of positions that "
        "could be resampled, but a learned matrix over that very number of tokens, and for another number of tokens "
        "it has no meaning"
    )


def _shape(module: nn.Module, key: str) -> tuple[int, ...]:
    parameter = module._parameters[key]
    assert parameter is not None
    return tuple(parameter.shape)


def _pair(value: Any) -> Size:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _resize(table: Tensor, size: tuple[int, ...], mode: str, antialias: bool = False) -> Tensor:
    return F.interpolate(table.float(), size=size, mode=mode, antialias=antialias).to(table.dtype)


def _known_grids(key: str, old: Any, new: Any, tokens: int) -> tuple[int, Size, Size] | None:
    """Return prefix tokens and both grids where the model itself says which grid a table is of."""
    grid = getattr(old, "position_grids", {}).get(key)
    return (tokens - grid[0] * grid[1], grid, new.position_grids[key]) if grid else None


def _grids(old: int, new: int, old_size: Size, new_size: Size) -> tuple[int, Size, Size] | None:
    """Prefix tokens and both grids of a flat table: the stride at which both sizes give these numbers of tokens."""
    for stride in range(1, 65):
        grid = (old_size[0] // stride, old_size[1] // stride)
        target = (new_size[0] // stride, new_size[1] // stride)
        prefix = old - grid[0] * grid[1]
        if 0 <= prefix <= MOST_PREFIX_TOKENS and new - target[0] * target[1] == prefix:
            return prefix, grid, target
    return None


def _blocks(count: int, block: Size, target: Size) -> Resampling:
    """``(1, T, N, C)``, a table for each of T blocks of an image: NesT's, where the image is resampled as a whole."""
    side = math.isqrt(count)

    def resample(table: Tensor) -> Tensor:
        image = join_blocks(table, (side * block[0], side * block[1]), block).permute(0, 3, 1, 2)
        resized = _resize(image, (side * target[0], side * target[1]), "bicubic")
        return split_blocks(resized.permute(0, 2, 3, 1), target)

    return resample


def _relative_bias(window: Size, target: Size, before: tuple[int, ...]) -> Resampling:
    """BEiT's interpolation at geometrically spaced offsets (timm's ``resize_rel_pos_bias_table``).

    It is linear in the table and separable, so it is two small matrices, which timm's own function gives when it
    is asked to resize the unit tables of each axis.
    """
    rows, columns = 2 * window[0] - 1, 2 * window[1] - 1
    heads_first = len(before) == 3
    extra = 0 if heads_first else before[0] - rows * columns
    down = _axis_matrix(window, target, rows, columns, axis=0)
    right = _axis_matrix(window, target, rows, columns, axis=1)
    moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def resample(table: Tensor) -> Tensor:
        place = (table.device, table.dtype)
        y, x = moved.get(place) or (down.to(table), right.to(table))
        if not is_in_torch_dispatch_mode():
            moved[place] = (y, x)  # once for each device, since the host waits for such a copy
        if heads_first:
            return torch.einsum("ar,hrc,bc->hab", y, table, x)
        grid = table[: rows * columns].view(rows, columns, -1)
        resized = torch.einsum("ar,rch,bc->abh", y, grid, x).flatten(0, 1)
        return torch.cat((resized, table[rows * columns :])) if extra else resized

    return resample


def _axis_matrix(window: Size, target: Size, rows: int, columns: int, axis: int) -> Tensor:
    """``(2 * target - 1, 2 * window - 1)``: how the offsets of one axis mix."""
    length = (rows, columns)[axis]
    units = torch.eye(length)
    table = units[:, None].expand(-1, columns, -1) if axis == 0 else units[None].expand(rows, -1, -1)
    out = (2 * target[0] - 1, 2 * target[1] - 1)
    resized = resize_rel_pos_bias_table(
        table.reshape(rows * columns, length).contiguous(), target, (out[0] * out[1], length), old_window_size=window
    ).view(*out, length)
    return (resized[:, out[1] // 2] if axis == 0 else resized[out[0] // 2]).contiguous()
