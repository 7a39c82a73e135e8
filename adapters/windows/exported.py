"""Windows as tensor arithmetic on the sides of the grid, for files in which these stay free.

Where windows lie, which of their places are pads and which the shift has brought over the edge follows here from
comparisons of indices, and no branch is taken: the same graph serves every size. A side no larger than a window is one
window with pads, which are masked; it is not shifted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.padding import count_cells


@dataclass(frozen=True)
class ExportedAxis:
    """One side of a grid, its sizes symbols of a graph.

    Attributes:
        size: cells.
        window: cells of a window.
        count: windows.
        cells: the cell at each place after padding and rolling, ``(count * window,)``; pads are >= size.
        wrapped: whether the roll brought that cell over the edge, ``(count * window,)``.
        places: the place of each cell, ``(size,)``.
    """

    size: int
    window: int
    count: int
    cells: Tensor
    wrapped: Tensor
    places: Tensor

    @property
    def is_pad(self) -> Tensor:
        """Tell which places are pads, ``(count * window,)``."""
        return self.cells >= self.size

    @classmethod
    def of(cls, size: int, window: int, shift: int, device: torch.device) -> "ExportedAxis":
        """Cut ``size`` cells into windows, rolled back by ``shift`` where there are several."""
        count = count_cells(size, window)
        padded = count * window
        cells = torch.arange(padded, device=device)
        places = torch.arange(size, device=device)
        if not shift:
            return cls(size, window, count, cells, torch.zeros_like(cells, dtype=torch.bool), places)
        rolled = torch.full((1,), size, device=device).gt(window) * shift
        cells = cells + rolled
        wrapped = cells >= padded
        places = places - rolled
        return cls(
            size,
            window,
            count,
            torch.where(wrapped, cells - padded, cells),
            wrapped,
            torch.where(places < 0, places + padded, places),
        )


class ExportedWindows:
    """The windows of a batch of grids.

    Args:
        batch: the number of grids.
        rows, columns: ``(size, window, shift)`` of each side.
        device: of the maps.
    """

    def __init__(
        self, batch: int, rows: tuple[int, int, int], columns: tuple[int, int, int], device: torch.device
    ) -> None:
        self.batch = batch
        self.rows, self.columns = (ExportedAxis.of(*side, device) for side in (rows, columns))
        self.area = self.rows.window * self.columns.window
        self.count = self.rows.count * self.columns.count
        self._to_windows, self._to_grid = self._split_index(), self._join_index()
        self._masks: dict[tuple[torch.dtype, float], Tensor] = {}

    def split(self, tokens: Tensor) -> Tensor:
        """Cut ``(B, H * W, C)`` into ``(windows, L, C)``, with zeros at the pads."""
        # A row of zeros behind the last cell, for the pads.
        split = F.pad(tokens, (0, 0, 0, 1)).index_select(1, self._to_windows)
        return split.reshape(self.batch * self.count, self.area, tokens.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """Put ``(windows, L, C)`` back together, ``(B, H * W, C)``, without the pads."""
        flat = windows.reshape(self.batch, self.count * self.area, windows.shape[-1])
        return flat.index_select(1, self._to_grid)

    def mask(self, dtype: torch.dtype, wrapped_score: float) -> Tensor:
        """Return what the masks add to the scores: minus infinity for pads, ``wrapped_score`` across the edge.

        Returns:
            ``(windows, 1, L, L)``, or ``(windows, 1, 1, L)`` where that is the same for all queries.
        """
        if (known := self._masks.get((dtype, wrapped_score))) is not None:
            return known
        pads = self._by_window(self.rows.is_pad[:, None] | self.columns.is_pad).reshape(self.count, 1, self.area)
        scores = torch.zeros((), dtype=dtype, device=pads.device)
        if wrapped_score:
            labels = self.rows.wrapped[:, None] * 2 + self.columns.wrapped * 1
            labels = self._by_window(labels).reshape(self.count, self.area)
            scores = (labels[:, :, None] != labels[:, None, :]).to(dtype) * wrapped_score
        scores = torch.where(pads, torch.full((), float("-inf"), dtype=dtype, device=pads.device), scores)
        every = scores.unsqueeze(0).expand(self.batch, -1, -1, -1)
        every = every.reshape(self.batch * self.count, 1, scores.shape[1], self.area)
        self._masks[dtype, wrapped_score] = every
        return every

    def _split_index(self) -> Tensor:
        """Return the cell of each place, window by window; pads point behind the last cell."""
        rows, columns = self.rows, self.columns
        index = rows.cells[:, None] * columns.size + columns.cells
        pads = rows.is_pad[:, None] | columns.is_pad
        return self._by_window(torch.where(pads, rows.size * columns.size, index)).reshape(-1)

    def _join_index(self) -> Tensor:
        """Return the place of each cell in the order of :meth:`split`."""
        rows, columns = self.rows, self.columns
        row = _floor(rows.places, rows.window) * columns.count * rows.window + rows.places % rows.window
        column = _floor(columns.places, columns.window) * self.area + columns.places % columns.window
        return ((row * columns.window)[:, None] + column).reshape(-1)

    def _by_window(self, grid: Tensor) -> Tensor:
        """Order the places of padded sides by window, ``(rows, columns)`` -> ``(count, count, window, window)``."""
        rows, columns = self.rows, self.columns
        return grid.reshape(rows.count, rows.window, columns.count, columns.window).transpose(1, 2)


def _floor(places: Tensor, window: int) -> Tensor:
    return torch.div(places, window, rounding_mode="floor")


#: The windows that the present trace has cut.
_KNOWN: ContextVar[dict[str, ExportedWindows] | None] = ContextVar("windows of a trace", default=None)


@contextmanager
def sharing_windows() -> Iterator[None]:
    """Have the blocks of one trace that cut equal grids alike share the indices, which belong to its graph."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def exported_windows(
    batch: int, rows: tuple[int, int, int], columns: tuple[int, int, int], device: torch.device
) -> ExportedWindows:
    """Return the windows of a batch of equal grids; arguments are those of :class:`ExportedWindows`."""
    known = _KNOWN.get()
    if known is None:
        return ExportedWindows(batch, rows, columns, device)
    key = f"{batch} {rows} {columns} {device}"
    if key not in known:
        known[key] = ExportedWindows(batch, rows, columns, device)
    return known[key]


def attend_exported(
    tokens: Tensor,
    batch: int,
    rows: Any,
    columns: Any,
    project_qkv: Callable[[Tensor], Tensor],
    attend_qkv: Callable[[Tensor, Tensor | None], Tensor],
    wrapped_score: float | None,
) -> Tensor:
    """Attend as :func:`adapters.windows.attention.attend_in_windows`, ``(B * H * W, C)`` -> the same shape."""
    down, right = ((axis.size, axis.window, axis.shift) for axis in (rows, columns))
    windows = exported_windows(batch, down, right, tokens.device)
    mask = None if wrapped_score is None else windows.mask(tokens.dtype, wrapped_score)
    split = windows.split(tokens.reshape(batch, rows.size * columns.size, tokens.shape[-1]))
    return windows.join(attend_qkv(project_qkv(split), mask)).reshape(tokens.shape)
