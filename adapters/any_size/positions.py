"""Positional tables at another image size, resampled as the authors of each kind do when they change the size.

A resampling is differentiable and takes the table itself, so that training at any size trains the one table.

These are the tables of models that timm builds for one size. A checkpoint's tables are resampled when it is loaded, in
:mod:`adapters.weights.resize`; ConViT's and ViTs', whose trunks take any size, in the family's pass or timm's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc, resize_rel_pos_bias_table
from torch import Tensor, nn

from adapters.any_size.timm_exceptions import join_blocks, split_blocks
from adapters.kernels.cpu import is_eager

Size = tuple[int, int]
Resampling = Callable[[Tensor], Tensor]

#: Class, distillation and register tokens that may stand before the grid.
MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class Table:
    """A positional table at two image sizes.

    Attributes:
        key: the parameter's name in its module.
        old: the module as built for ``old_size``, without values.
        new: the same for ``new_size``.
        old_size: ``(H, W)`` in pixels.
        new_size: ``(H, W)`` in pixels.
    """

    key: str
    old: Any
    new: Any
    old_size: Size
    new_size: Size

    @property
    def before(self) -> tuple[int, ...]:
        """The table's shape at the old size."""
        return _shape(self.old, self.key)

    @property
    def after(self) -> tuple[int, ...]:
        """The table's shape at the new size."""
        return _shape(self.new, self.key)

    @property
    def grids(self) -> tuple[int, Size, Size] | None:
        """Prefix tokens and both grids of a flat table ``(..., tokens, C)``, if it has any."""
        return _known_grids(self) or _grids(self.before[-2], self.after[-2], self.old_size, self.new_size)


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
    table = Table(key, old, new, old_size, new_size)
    for matches, make in _KINDS:
        if matches(table):
            return make(table)
    raise ValueError(
        f"{name} has the shape {table.before} for images of {old_size[0]} x {old_size[1]}: it is no table of positions "
        "that could be resampled, but a learned matrix over that very number of tokens, and for another number of "
        "tokens it has no meaning"
    )


def _bias_by_offset(t: Table) -> Resampling:
    return _relative_bias(_pair(t.old.window_size), _pair(t.new.window_size), t.before)


def _line(t: Table) -> Resampling:
    length = t.after[:1]
    return lambda table: _resize(table.t()[None], length, "linear")[0].t()


def _bias_by_absolute_offset(t: Table) -> Resampling:
    # As timm's filter for EfficientViT resizes them.
    grid, target = _pair(t.old.resolution), _pair(t.new.resolution)
    return lambda table: _resize(table.view(1, -1, *grid), target, "bicubic", antialias=True).flatten(2)[0]


def _plane(t: Table) -> Resampling:
    sides = t.after[:2]
    return lambda table: _resize(table.permute(2, 0, 1)[None], sides, "bilinear")[0].permute(1, 2, 0)


def _tokens(t: Table) -> Resampling:
    assert t.grids is not None
    prefix, grid, target = t.grids
    if len(t.before) == 2:
        return lambda table: resample_abs_pos_embed(table[None], list(target), list(grid), prefix)[0]
    return lambda table: resample_abs_pos_embed(table, list(target), list(grid), prefix)


def _tokens_of_blocks(t: Table) -> Resampling:
    return _blocks(t.before[1], _pair(t.old.block_size), _pair(t.new.block_size))


def _channels_first(t: Table) -> Resampling:
    sides = t.after[2:]
    return lambda table: _resize(table, sides, "bicubic", antialias=True)


def _channels_last(t: Table) -> Resampling:
    sides = list(t.after[1:3])
    return lambda table: resample_abs_pos_embed_nhwc(table, sides)


def _is_image(t: Table) -> bool:
    return len(t.before) == 4 and t.before[0] == 1


def _only_sides_differ(t: Table) -> bool:
    return _is_image(t) and t.before[:2] == t.after[:2]


def _has_square_cells(t: Table) -> bool:
    """Tell whether the last two sides are a grid, where one of them is the same at both sizes."""
    rows, columns = t.before[2:]
    return abs(t.old_size[0] / rows - t.old_size[1] / columns) < 1


#: The kinds of tables: a test, and the resampling where it holds. The first that holds decides.
_KINDS: tuple[tuple[Callable[[Table], bool], Callable[[Table], Resampling]], ...] = (
    # BEiT, Swin: biases by the offset in a window.
    (lambda t: t.key == "relative_position_bias_table", _bias_by_offset),
    # MViTv2, BoTNet, HaloNet: one table an axis, (2 * side - 1, C).
    (lambda t: t.key.startswith(("rel_pos_", "height_rel", "width_rel")) and len(t.before) == 2, _line),
    # LeViT, TinyViT, EfficientFormer, EfficientViT: biases by (|dy|, |dx|), (heads, N).
    (lambda t: t.key == "attention_biases" and len(t.before) == 2, _bias_by_absolute_offset),
    # LambdaNetworks: by relative offsets, (rows, columns, C).
    (lambda t: t.key == "pos_emb" and len(t.before) == 3 and t.before[2] == t.after[2], _plane),
    # CLIP's attention pooling: (tokens, C).
    (lambda t: t.key == "pos_embed" and len(t.before) == 2 and t.before[1] == t.after[1] and bool(t.grids), _tokens),
    # NesT: (1, blocks, tokens of a block, C).
    (lambda t: _only_sides_differ(t) and hasattr(t.old, "block_size"), _tokens_of_blocks),
    # PiT: (1, C, H, W).
    (lambda t: _only_sides_differ(t) and (t.before[3] != t.after[3] or _has_square_cells(t)), _channels_first),
    # SAM's ViT, Hiera and others: (1, H, W, C).
    (lambda t: _is_image(t) and t.before[3] == t.after[3], _channels_last),
    # DeiT, CaiT, CrossViT and others: (1, prefix + N, C).
    (lambda t: len(t.before) == 3 and t.before[0] == 1 and t.before[2] == t.after[2] and bool(t.grids), _tokens),
)


def _shape(module: nn.Module, key: str) -> tuple[int, ...]:
    parameter = module._parameters[key]
    assert parameter is not None
    return tuple(parameter.shape)


def _pair(value: Any) -> Size:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _resize(table: Tensor, size: tuple[int, ...], mode: str, antialias: bool = False) -> Tensor:
    return F.interpolate(table.float(), size=size, mode=mode, antialias=antialias).to(table.dtype)


def _known_grids(table: Table) -> tuple[int, Size, Size] | None:
    """Return prefix tokens and both grids where the model itself says which grid a table is of (CrossViT)."""
    grid = getattr(table.old, "position_grids", {}).get(table.key)
    return (table.before[-2] - grid[0] * grid[1], grid, table.new.position_grids[table.key]) if grid else None


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
    """Resample NesT's table for each of T blocks of an image, ``(1, T, N, C)``, as one image."""
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
        if is_eager():
            moved[place] = (y, x)  # once for each device, since the host waits for such a copy
        if heads_first:
            return torch.einsum("ar,hrc,bc->hab", y, table, x)
        grid = table[: rows * columns].view(rows, columns, -1)
        resized = torch.einsum("ar,rch,bc->abh", y, grid, x).flatten(0, 1)
        return torch.cat((resized, table[rows * columns :])) if extra else resized

    return resample


def _axis_matrix(window: Size, target: Size, rows: int, columns: int, axis: int) -> Tensor:
    """Compute the weights that mix the offsets of one axis, ``(2 * target - 1, 2 * window - 1)``."""
    length = (rows, columns)[axis]
    units = torch.eye(length)
    table = units[:, None].expand(-1, columns, -1) if axis == 0 else units[None].expand(rows, -1, -1)
    out = (2 * target[0] - 1, 2 * target[1] - 1)
    resized = resize_rel_pos_bias_table(
        table.reshape(rows * columns, length).contiguous(), target, (out[0] * out[1], length), old_window_size=window
    ).view(*out, length)
    return (resized[:, out[1] // 2] if axis == 0 else resized[out[0] // 2]).contiguous()
