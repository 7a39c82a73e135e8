"""CrossViT's first branch: its patches are the finest, and the last block need not look at the other branch."""

import torch
from timm.models.crossvit import CrossVit, MultiScaleBlock
from torch import Tensor

from adapters.families.grafting import graft


class LastBlock(MultiScaleBlock):
    """The patches of the first branch are final before the branches exchange their class tokens."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """``[(B, 1 + N_i, C_i) for each branch]``; only the patches of the first are those of the whole block."""
        return [self.blocks[0](x[0]), *x[1:]]


def finish_in_first_branch(trunk: torch.nn.Module) -> None:
    """Leave out of the last block, after pruning, what does not reach the patches of the first branch."""
    if isinstance(trunk, CrossVit):
        graft(trunk.blocks[-1], LastBlock)
