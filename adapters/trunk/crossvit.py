"""CrossViT's first branch: its patches are the finest, and the other branch serves it as far as it reaches them.

What the branches exchange are class tokens, at the end of each block. So the second branch's own share of the exchange
in the last block but one, and all of it in the last, have no part in the first branch's patches.
"""

import torch
from timm.models.crossvit import CrossVit, MultiScaleBlock
from torch import Tensor, nn

from adapters.trunk.surgery import graft


class LastButOneBlock(MultiScaleBlock):
    """Only the first branch hears of the other."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """``(B, 1 + N_i, C_i)`` for each of two branches -> the same, the second as it was before the exchange."""
        first, second = (block(branch) for block, branch in zip(self.blocks, x, strict=True))
        asked = self.fusion[0](torch.cat((self.projs[0](first[:, :1]), second[:, 1:]), dim=1))
        return [torch.cat((self.revert_projs[0](asked[:, :1]), first[:, 1:]), dim=1), second]


class LastBlock(MultiScaleBlock):
    """No exchange."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """``(B, 1 + N_i, C_i)`` for each of two branches -> the same, the second as it was."""
        return [self.blocks[0](x[0]), x[1]]


def finish_in_first_branch(trunk: nn.Module) -> None:
    """Leave out of the last blocks, after pruning, what does not reach the patches of the first branch."""
    if isinstance(trunk, CrossVit):
        graft(trunk.blocks[-1], LastBlock)
        if len(trunk.blocks) > 1:
            graft(trunk.blocks[-2], LastButOneBlock)
