"""Gradient checkpointing for trunks of timm's, also where timm refuses it."""

import functools
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from adapters.families.grafting import graft


def checkpoint_blocks(trunk: Any) -> None:
    """Switch on timm's own gradient checkpointing, or ours around each of the trunk's blocks where timm refuses."""
    try:
        trunk.set_grad_checkpointing(True)
    except (AssertionError, AttributeError, NotImplementedError):
        for block in _blocks(trunk):
            cls: Any = type(block)
            graft(block, _checkpointed(cls))


@functools.cache
def _checkpointed(cls: Any) -> type[nn.Module]:
    """A subclass that recomputes its forward pass during the backward pass."""

    def forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return cls.forward(self, *arguments, **named)
        run = functools.partial(cls.forward, self)
        return torch.utils.checkpoint.checkpoint(run, *arguments, use_reentrant=False, **named)

    return type(f"Checkpointed{cls.__name__}", (cls,), {"forward": forward})


def _blocks(trunk: nn.Module) -> list[nn.Module]:
    """The children of the trunk's containers: its stages or blocks."""
    return [
        block
        for container in trunk.children()
        if isinstance(container, nn.Sequential | nn.ModuleList)
        for block in container
        if any(True for _ in block.parameters())
    ]
