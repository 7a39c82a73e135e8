"""Attention inside the windows of a token map: eagerly by groups of windows, and in a form that compiles."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adapters.windows.exported import attend_exported
from adapters.windows.partition import Axis, Windows, windows_of

#: ``(n, L, C)`` of n windows -> queries, keys and values of their tokens, ``(n, L, ...)``.
ProjectQkv = Callable[[Tensor], Tensor]
#: Those, and a mask to add to the scores, ``(L, L)`` or ``(n, 1, L, L)``, or None -> ``(n, L, C)``.
AttendQkv = Callable[[Tensor, Tensor | None], Tensor]


def attend_in_windows(
    tokens: Tensor,
    batch: int,
    rows: Axis,
    columns: Axis,
    project_qkv: ProjectQkv,
    attend_qkv: AttendQkv,
    wrapped_score: float | None,
) -> Tensor:
    """Let the tokens of every window attend one another.

    Only the last windows of an axis can hold pads or cells from over the edge, so masks belong to a few windows, and
    the others are attended without any.

    Args:
        tokens: ``(B * H * W, C)``.
        batch: ``B``.
        rows, columns: the cuts of each side.
        project_qkv: ``(n, L, C)`` of n windows -> ``(n, L, 3, heads, d)``.
        attend_qkv: that of some windows and their mask -> ``(n, L, C)``.
        wrapped_score: score added between cells that the cyclic shift made neighbours (-100 in SwinV2-CR, 0 where
            nothing shifts); padded keys always get minus infinity. None switches masking off.

    Returns:
        ``(B * H * W, C)``.
    """
    if torch.compiler.is_exporting():
        return attend_exported(tokens, batch, rows, columns, project_qkv, attend_qkv, wrapped_score)
    if torch.compiler.is_compiling():
        return _attend_compiled(tokens, batch, rows, columns, project_qkv, attend_qkv, wrapped_score)
    windows = windows_of(batch, rows, columns, tokens.device)
    qkv = project_qkv(windows.split(tokens))
    if wrapped_score is None:
        return windows.join(attend_qkv(qkv, None))
    masks = [group.mask(tokens.dtype, wrapped_score) for group in windows.groups]
    # One split, whose derivative is one concatenation, where that of slices would be a sum of padded ones.
    parts = qkv.split([group.stop - group.start for group in windows.groups])
    attended = [attend_qkv(part, mask) for part, mask in zip(parts, masks, strict=True)]
    return windows.join(torch.cat(attended) if len(attended) > 1 else attended[0])


# For torch.compile. Which windows are alike, and where their cells lie, is decided by Python from the sizes; traced
# with symbolic sizes, that takes minutes. So it stays outside the graph, in operators whose only promise is the shape
# of what they return. A layout is (B, H, window, shift, W, window, shift).


def _attend_compiled(
    tokens: Tensor,
    batch: int,
    rows: Axis,
    columns: Axis,
    project_qkv: ProjectQkv,
    attend_qkv: AttendQkv,
    wrapped_score: float | None,
) -> Tensor:
    layout = [batch, rows.size, rows.window, rows.shift, columns.size, columns.window, columns.shift]
    mask = None if wrapped_score is None else _masks(tokens.detach(), layout, wrapped_score)
    return _join(attend_qkv(project_qkv(_split(tokens, layout)), mask).contiguous(), layout)


def _windows(layout: Sequence[int], device: torch.device) -> Windows:
    return windows_of(layout[0], Axis(*layout[1:4]), Axis(*layout[4:]), device)


@torch.library.custom_op("adapters::split_windows", mutates_args=())
def _split(tokens: Tensor, layout: Sequence[int]) -> Tensor:
    windows = _windows(layout, tokens.device)
    return windows.gather(tokens).view(-1, windows.area, tokens.shape[-1])


@torch.library.custom_op("adapters::join_windows", mutates_args=())
def _join(windows: Tensor, layout: Sequence[int]) -> Tensor:
    return _windows(layout, windows.device).scatter(windows.reshape(-1, windows.shape[-1]))


@torch.library.custom_op("adapters::window_masks", mutates_args=())
def _masks(like: Tensor, layout: Sequence[int], wrapped_score: float) -> Tensor:
    """Return the mask of every window, ``(windows, 1, L, L)``."""
    windows = _windows(layout, like.device)
    masks = like.new_zeros(windows.count, 1, windows.area, windows.area)
    for group in windows.groups:
        mask = group.mask(like.dtype, wrapped_score)
        if mask is not None:
            masks[group.start : group.stop] = mask
    return masks


def _count_and_area(layout: Sequence[int]) -> tuple[int, int]:
    batch, height, tall, _, width, wide, _ = layout
    return batch * -(-height // tall) * -(-width // wide), tall * wide


@_split.register_fake
def _(tokens: Tensor, layout: Sequence[int]) -> Tensor:
    return tokens.new_empty(*_count_and_area(layout), tokens.shape[-1])


@_join.register_fake
def _(windows: Tensor, layout: Sequence[int]) -> Tensor:
    return windows.new_empty(layout[0] * layout[1] * layout[4], windows.shape[-1])


@_masks.register_fake
def _(like: Tensor, layout: Sequence[int], wrapped_score: float) -> Tensor:  # noqa: ARG001, torch passes it
    count, area = _count_and_area(layout)
    return like.new_empty(count, 1, area, area)


def _keep_layout(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001, torch passes it
    ctx.layout = inputs[1]


def _split_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return _join(gradient.contiguous(), ctx.layout), None


def _join_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return _split(gradient.contiguous(), ctx.layout), None


_split.register_autograd(_split_backward, setup_context=_keep_layout)
_join.register_autograd(_join_backward, setup_context=_keep_layout)
