"""Rotary tables that depend on the grid alone, kept from one forward pass to the next.

timm makes them anew at each pass over an image of any size; those of DINOv3 on the CPU, from where they are copied to
the device, for which the host waits. What is learned (mixed RoPE) or drawn anew (the coordinates that DINOv3 augments
in training) is timm's as it is.
"""

from typing import Any

import torch
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from torch import Tensor, nn

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


_KEPT = {RotaryEmbeddingCat: KeptRotaryEmbeddingCat, RotaryEmbeddingDinoV3: KeptRotaryEmbeddingDinoV3}


def keep_tables(rotary: nn.Module | None) -> None:
    """Have a rotary embedding of timm's keep its tables, if it is of a kind whose tables can be kept."""
    kept: Any = _KEPT.get(type(rotary))
    if rotary is not None and kept is not None:
        graft(rotary, kept).tables = Memo(GRIDS)
