"""Attention inside windows of a token map: all of them at once, piece by piece, or in a form that compiles."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adapters.kernels.chunks import rows_at_once
from adapters.windows.partition import Axis, Windows, windows_of

Project = Callable[[Tensor], Tensor]
Attention = Callable[[Tensor, Tensor | None], Tensor]


def attend_in_windows(
    tokens: Tensor,
    batch: int,
    rows: Axis,
    columns: Axis,
    project: Project,
    attention: Attention,
    apart: float | None,
    bytes_per_token: int,
) -> Tensor:
    """Attention inside every window.

    Only the last windows of an axis can hold pads or cells from the other side, so masks belong to a few windows, and
    the others are attended without any.

    Args:
        tokens: ``(B * H * W, C)``.
        batch: ``B``.
        rows, columns: how each side is cut.
        project: ``(n, L, C)`` of n windows -> what their tokens attend with, ``(n, L, ...)``.
        attention: windows of that, and a mask to add to the scores, ``(1, L, L)`` or ``(n, 1, L, L)``, or None ->
            ``(n, L, C)``.
        apart: what the mask adds between cells that the roll has brought together; no pad is attended. None for no
            mask at all.
        bytes_per_token: of the largest intermediate result.

    Returns:
        ``(B * H * W, C)``.
    """
    if torch.compiler.is_compiling():
        return _attend_compiled(tokens, batch, rows, columns, project, attention, apart)
    windows = windows_of(batch, rows, columns, tokens.device)
    runs = [windows.whole] if apart is None else windows.runs
    masks = [None if apart is None else run.mask(tokens.dtype, apart) for run in runs]
    count = runs[-1].stop
    step = rows_at_once(tokens, count, windows.area * bytes_per_token)
    if step == count:
        # One split, whose derivative is one concatenation, where that of slices would be a sum of padded ones.
        projected = project(windows.split(tokens)).split([run.stop - run.start for run in runs])
        parts = [attention(part, mask) for part, mask in zip(projected, masks, strict=True)]
        return windows.join(torch.cat(parts) if len(parts) > 1 else parts[0])
    out: Tensor | None = None
    for start in range(0, count, step):
        stop = min(start + step, count)
        piece = windows.gather(tokens, start * windows.area, stop * windows.area)
        projected = project(piece.view(-1, windows.area, tokens.shape[-1]))
        for run, mask in zip(runs, masks, strict=True):
            first, last = max(start, run.start), min(stop, run.stop)
            if first < last:
                part = attention(projected[first - start : last - start], mask)
                out = part.new_empty(count, *part.shape[1:]) if out is None else out
                out[first:last] = part
    assert out is not None
    return windows.join(out)


# For torch.compile. Which windows are alike, and where their cells lie, is decided by Python from the sizes; traced
# with symbolic sizes, that takes minutes. So it stays outside the graph, in operators whose only promise is the shape
# of what they return. A layout is (B, H, window, shift, W, window, shift).


def _attend_compiled(
    tokens: Tensor,
    batch: int,
    rows: Axis,
    columns: Axis,
    project: Project,
    attention: Attention,
    apart: float | None,
) -> Tensor:
    layout = [batch, rows.size, rows.window, rows.shift, columns.size, columns.window, columns.shift]
    mask = None if apart is None else _masks(tokens.detach(), layout, apart)
    return _join(attention(project(_split(tokens, layout)), mask).contiguous(), layout)


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
def _masks(like: Tensor, layout: Sequence[int], apart: float) -> Tensor:
    """Of every window, ``(windows, 1, L, L)``."""
    windows = _windows(layout, like.device)
    masks = like.new_zeros(windows.runs[-1].stop, 1, windows.area, windows.area)
    for run in windows.runs:
        mask = run.mask(like.dtype, apart)
        if mask is not None:
            masks[run.start : run.stop] = mask
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
def _(like: Tensor, layout: Sequence[int], apart: float) -> Tensor:  # noqa: ARG001, torch passes it
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
