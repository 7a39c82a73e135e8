"""Cutting token maps into windows and putting them back together, each in a single pass over the data.

Padding, cyclic shift and partition are one gather by precomputed indices, and undoing them is another: several times
faster on a CPU than padding, rolling and permuting one after the other.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.kernels.cpu import is_eager

#: Label of a pad among the labels of a window's cells.
PAD = -1


@dataclass(frozen=True)
class Axis:
    """One side of a grid: ``size`` cells, padded at the end to ``count`` windows, then rolled back by ``shift``."""

    size: int
    window: int
    shift: int = 0

    @property
    def count(self) -> int:
        """The number of windows that cover the axis."""
        return -(-self.size // self.window)

    @property
    def padded(self) -> int:
        """The number of cells, pads included."""
        return self.count * self.window

    @property
    def unmasked_count(self) -> int:
        """The number of windows, from the first, without pads and without cells that the roll brought over the edge."""
        first = self.count - 1 if self.shift else self.count
        return min(first, (self.size - self.shift) // self.window)

    def cells(self, device: torch.device) -> Tensor:
        """Return the cell that stands at each place after padding and rolling, ``(padded,)``; pads are >= size."""
        return (torch.arange(self.padded, device=device) + self.shift) % self.padded

    def labels(self, index: int, device: torch.device) -> Tensor:
        """Label the cells of one window, ``(window,)``: PAD, 1 for cells from over the edge, 0 for the rest."""
        place = torch.arange(index * self.window, (index + 1) * self.window, device=device)
        is_pad = (place + self.shift) % self.padded >= self.size
        return (place >= self.padded - self.shift).long().masked_fill(is_pad, PAD)

    def groups(self, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """Yield windows that need the same mask, with their labels, ``(window,)``; all unmasked ones come together."""
        if self.unmasked_count:
            yield slice(0, self.unmasked_count), torch.zeros(self.window, dtype=torch.long, device=device)
        for index in range(self.unmasked_count, self.count):
            yield slice(index, index + 1), self.labels(index, device)


@dataclass(frozen=True)
class WindowGroup:
    """Consecutive windows of a split, ``start .. stop``, that need the same attention mask, or none."""

    start: int
    stop: int
    row_labels: Tensor
    column_labels: Tensor
    unmasked: bool

    def mask(self, dtype: torch.dtype, wrapped_score: float) -> Tensor | None:
        """Return what the group's mask adds to the scores, ``(L, L)``, or None for unmasked windows.

        Args:
            dtype: of the scores.
            wrapped_score: added between cells that the roll made neighbours; padded keys get minus infinity.
        """
        if self.unmasked:
            return None
        same_row = self.row_labels[:, None] == self.row_labels[None, :]
        same_column = self.column_labels[:, None] == self.column_labels[None, :]
        same = (same_row[:, None, :, None] & same_column[None, :, None, :]).flatten(2).flatten(0, 1)
        is_pad = ((self.row_labels == PAD)[:, None] | (self.column_labels == PAD)[None, :]).flatten()
        scores = torch.zeros(same.shape, dtype=dtype, device=same.device)
        return scores.masked_fill(~same, wrapped_score).masked_fill(is_pad, float("-inf"))


class Windows:
    """The windows of a batch of equal grids, as indices of where each cell goes and where it comes back from.

    Args:
        batch: the number of grids.
        rows: the vertical axis.
        columns: the horizontal axis.
        device: of the maps.

    Attributes:
        area: tokens of a window, ``L``.
        count: windows of the whole batch.
        groups: windows that need the same mask, in the order of :meth:`split`; the unmasked ones come first.
    """

    def __init__(self, batch: int, rows: Axis, columns: Axis, device: torch.device) -> None:
        self.area = rows.window * columns.window
        cells = batch * rows.size * columns.size
        row, column = rows.cells(device), columns.cells(device)
        grid = row[:, None] * columns.size + column[None, :]
        # Pads point one past the last cell of the batch.
        grid = grid.masked_fill((row >= rows.size)[:, None] | (column >= columns.size)[None, :], cells)
        grid = grid.view(rows.count, rows.window, columns.count, columns.window).transpose(1, 2).flatten(2)
        first_cells = torch.arange(batch, device=device)[:, None, None, None] * (rows.size * columns.size)
        grid = (grid + first_cells).clamp(max=cells)

        self.groups: list[WindowGroup] = []
        indices: list[Tensor] = []
        done = 0
        for row_slice, row_labels in rows.groups(device):
            for column_slice, column_labels in columns.groups(device):
                index = grid[:, row_slice, column_slice]
                count = batch * index.shape[1] * index.shape[2]
                unmasked = row_slice.stop <= rows.unmasked_count and column_slice.stop <= columns.unmasked_count
                self.groups.append(WindowGroup(done, done + count, row_labels, column_labels, unmasked))
                indices.append(index.reshape(-1))
                done += count
        self.count = done
        index = torch.cat(indices) if len(indices) > 1 else indices[0]
        places = torch.arange(index.numel(), device=device)
        self._index = index
        self._inverse = places.new_empty(cells + 1).index_copy_(0, index, places)[:cells]
        #: Pads lie at or after this place: unmasked windows have none, and they come first.
        self._first_pad = self.groups[0].stop * self.area if self.groups[0].unmasked else 0

    def split(self, tokens: Tensor) -> Tensor:
        """Cut ``(B * H * W, C)`` into ``(windows, L, C)``, with zeros where a window reaches past the grid."""
        return _Split.apply(tokens, self).view(-1, self.area, tokens.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """Put ``(windows, L, C)`` back together, ``(B * H * W, C)``, without the pads."""
        return _Join.apply(windows.reshape(-1, windows.shape[-1]), self)

    def gather(self, tokens: Tensor) -> Tensor:
        """Compute the data of :meth:`split` without its derivative, ``(B * H * W, C)`` -> ``(windows * L, C)``."""
        cells = tokens.shape[0]
        out = tokens.index_select(0, self._index.clamp(max=cells - 1))
        if self._first_pad < out.shape[0]:
            out[self._first_pad :].masked_fill_((self._index[self._first_pad :] == cells)[:, None], 0)
        return out

    def scatter(self, windows: Tensor) -> Tensor:
        """Compute the data of :meth:`join` without its derivative, ``(windows * L, C)`` -> ``(B * H * W, C)``."""
        return windows.index_select(0, self._inverse)


def windows_of(batch: int, rows: Axis, columns: Axis, device: torch.device) -> Windows:
    """Return the windows of a batch of equal grids, made once for all blocks and passes that cut alike."""
    # Tensors that hold no data, or that a graph or a transform makes, must not be kept for others.
    if not is_eager():
        return Windows(batch, rows, columns, device)
    return _kept_windows(batch, rows, columns, device)


@functools.lru_cache(maxsize=32)
def _kept_windows(batch: int, rows: Axis, columns: Axis, device: torch.device) -> Windows:
    with torch.inference_mode(False):
        return Windows(batch, rows, columns, device)


# Each is the other's derivative. Autograd would derive an indexed addition instead, which is far slower.


class _WindowsFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Windows], output: Tensor) -> None:  # noqa: ARG004, torch's
        ctx.windows = inputs[1]


class _Split(_WindowsFunction):
    @staticmethod
    def forward(tokens: Tensor, windows: Windows) -> Tensor:
        return windows.gather(tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Join.apply(grad.contiguous(), ctx.windows), None


class _Join(_WindowsFunction):
    @staticmethod
    def forward(windows_tokens: Tensor, windows: Windows) -> Tensor:
        return windows.scatter(windows_tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Split.apply(grad.contiguous(), ctx.windows), None
