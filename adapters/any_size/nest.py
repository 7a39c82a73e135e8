"""NesT on images that are not square: blocks with two sides."""

import torch
from timm.models import checkpoint_seq
from timm.models.nest import NestLevel
from torch import Tensor

Size = tuple[int, int]


class RectangularLevel(NestLevel):
    """A level whose ``block_size`` is ``(h, w)``."""

    #: Sides of a block, or one for both where timm has built it so.
    block_size: int | Size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', H', W')``: halved by the pooling of all but the first level."""
        x = self.pool(x).permute(0, 2, 3, 1)
        block = (self.block_size, self.block_size) if isinstance(self.block_size, int) else self.block_size
        size = (x.shape[1], x.shape[2])
        blocks = split_blocks(x, block) + self.pos_embed
        if self.grad_checkpointing and torch.is_grad_enabled():
            blocks = checkpoint_seq(self.transformer_encoder, blocks)
        else:
            blocks = self.transformer_encoder(blocks)
        return join_blocks(blocks, size, block).permute(0, 3, 1, 2)


def split_blocks(x: Tensor, block: Size) -> Tensor:
    """``(B, H, W, C)`` -> ``(B, T, h * w, C)``, T blocks of ``h x w``."""
    return x.unflatten(2, (-1, block[1])).unflatten(1, (-1, block[0])).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_blocks(x: Tensor, size: Size, block: Size) -> Tensor:
    """The way back: ``(B, T, h * w, C)`` -> ``(B, H, W, C)``."""
    rows, columns = size[0] // block[0], size[1] // block[1]
    x = x.unflatten(2, block).unflatten(1, (rows, columns)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)
