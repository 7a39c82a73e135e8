"""Rotary tables that depend on the grid alone, kept from one forward pass to the next.

timm makes them anew at each pass over an image of any size; those of DINOv3 on the CPU, from where they are copied to
the device, for which the host waits. What is learned (mixed RoPE) or drawn anew (the coordinates that DINOv3 augments
in training) is timm's as it is.
"""

from typing import Any

import torch
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from torch import Tensor, nn

from adapters.kernels.versions import is_exporting
from adapters.trunk.memo import Memo
from adapters.trunk.surgery import graft

#: Grids whose tables are kept.
GRIDS = 8


class _KeepsTables(nn.Module):
    """A rotary embedding of timm's that makes the table of each grid once."""

    tables: Memo

    def get_embed(self, shape: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return the sines and cosines of the grid ``shape``, ``(H * W, 2 d)``."""
        rotary: Any = super()
        if shape is None or (self.training and self.aug_active):
            return rotary.get_embed(shape, dtype=dtype)
        # No gradient reaches a table; and one that is made in inference mode could not be used in training.
        with torch.inference_mode(False), torch.no_grad():
            return self.tables.get((*shape, dtype), list(self.buffers()), lambda: rotary.get_embed(shape, dtype=dtype))


class KeptRotaryEmbeddingCat(_KeepsTables, RotaryEmbeddingCat):
    """The rotary embedding of EVA and the RoPE ViTs."""


class KeptRotaryEmbeddingDinoV3(_KeepsTables, RotaryEmbeddingDinoV3):
    """The rotary embedding of DINOv3."""

    def _create_embed(self, feat_shape: Any, no_aug: bool = False) -> Tensor:
        """Compute the table of a grid, ``(H * W, 2 d)``; in a file for any grid, without timm's floats of its sides."""
        rotary: Any = self
        if not is_exporting() or (self.training and rotary.aug_active):
            table: Tensor = super()._create_embed(feat_shape, no_aug)
            return table
        sides = feat_shape if rotary.grid_indexing == "ij" else (feat_shape[1], feat_shape[0])
        counts = [torch.full((1,), side, dtype=torch.float32) for side in sides]
        if rotary.normalize_coords != "separate":
            pick = torch.maximum if rotary.normalize_coords == "max" else torch.minimum
            counts = [pick(*counts)] * 2
        centres = [torch.arange(side, dtype=torch.float32) + (0.5 + rotary.grid_offset) for side in sides]
        places = [centre / count for centre, count in zip(centres, counts, strict=True)]
        grid = torch.stack(torch.meshgrid(*places, indexing=rotary.grid_indexing), dim=-1) * 2 - 1
        return torch.cat(rotary._get_pos_embed_from_coords(grid.flatten(0, -2)), dim=-1)


_KEPT = {RotaryEmbeddingCat: KeptRotaryEmbeddingCat, RotaryEmbeddingDinoV3: KeptRotaryEmbeddingDinoV3}


def keep_tables(rotary: nn.Module | None) -> None:
    """Have a rotary embedding of timm's keep its tables, if it is of a kind whose tables can be kept."""
    kept: Any = _KEPT.get(type(rotary))
    if rotary is not None and kept is not None:
        graft(rotary, kept).tables = Memo(GRIDS)
