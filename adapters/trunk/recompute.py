"""Gradient checkpointing of timm's trunks, where timm refuses it too: activations are recomputed in the backward pass.

Twins, ViT and ConViT, which call their blocks themselves, recompute in ``BackboneAdapter.run_block``, and pyramids in
their own passes.

"Checkpoint" means a file of weights in this package; recomputation is called so only where torch and timm do.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapters.trunk.surgery import graft_methods


class RecomputingTrunk:
    """``with_cp`` of an adapter whose trunk recomputes by itself; setting it switches the trunk, at any time."""

    trunk: Any
    _with_cp = False

    @property
    def with_cp(self) -> bool:
        """Gradient checkpointing, block by block, in training."""
        return self._with_cp

    @with_cp.setter
    def with_cp(self, enable: bool) -> None:
        changed, self._with_cp = enable != self._with_cp, enable
        if changed and hasattr(self, "trunk"):
            recompute_blocks(self.trunk, enable)


def recompute_blocks(trunk: Any, enable: bool = True) -> None:
    """Switch timm's own gradient checkpointing, or ours around each of the trunk's blocks where timm refuses."""
    ours = _switches(trunk)
    if not ours:
        try:
            trunk.set_grad_checkpointing(enable)
        # Models of timm refuse in three ways, by their age: an assertion, no attribute to set, or plainly.
        except (AssertionError, AttributeError, NotImplementedError):
            _recompute_where_timm_does_not(trunk)
            ours = _switches(trunk)
    for module in ours:
        module.recomputes = enable


def _switches(trunk: nn.Module) -> list[Any]:
    """Return the modules that recompute themselves, or others, while their ``recomputes`` is true."""
    return [module for module in trunk.modules() if hasattr(module, "recomputes")]


def _recompute_where_timm_does_not(trunk: nn.Module) -> None:
    blocks: list[Any] = _blocks(trunk)
    for block in blocks:
        graft_methods(block, _recomputed)
        block.recomputes = True
    for container in () if blocks else trunk.children():
        if isinstance(container, nn.Sequential):
            recomputing: Any = graft_methods(container, _between_poolings)
            recomputing.recomputes = True


def _recomputed(cls: Any) -> dict[str, Callable[..., Any]]:
    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if not (self.recomputes and torch.is_grad_enabled()):
            return cls.forward(self, *arguments, **named)

        def run(*arguments: Any, **named: Any) -> Any:
            # HRNet's modules replace the maps in the list that they are given; the second pass needs it as it was.
            copies = (list(value) if isinstance(value, list) else value for value in arguments)
            return cls.forward(self, *copies, **named)

        return checkpoint(run, *arguments, use_reentrant=False, **named)

    return {"forward": forward}


def _blocks(trunk: nn.Module) -> list[nn.Module]:
    """Return the stages or blocks: children of the trunk's containers, and its other children, that have layers."""
    blocks: list[nn.Module] = []
    for child in trunk.children():
        blocks += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
    return [block for block in blocks if any(True for _ in block.children()) and any(True for _ in block.parameters())]


def _between_poolings(cls: Any) -> dict[str, Callable[..., Any]]:
    """Override how trunks go through their one list of layers (VGG), whose maps come before a pooling."""

    def iterate(self: Any) -> Iterator[Callable[[Tensor], Tensor]]:
        layers = cls.__iter__(self)
        if not (self.recomputes and torch.is_grad_enabled()):
            yield from layers
            return
        for pools, group in itertools.groupby(layers, lambda layer: isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)):
            first, *others = group
            yield first if pools else functools.partial(_run_recomputed, (first, *others))
            yield from others if pools else [_hand_on for _ in others]

    def get_item(self: Any, index: Any) -> Any:
        item = cls.__getitem__(self, index)
        if isinstance(index, slice):  # a list of the same class
            item.recomputes = self.recomputes
        return item

    return {"__iter__": iterate, "__getitem__": get_item}


def _run_recomputed(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return checkpoint(run, x, use_reentrant=False)


def _hand_on(x: Tensor) -> Tensor:
    """Stand for a layer that the first of its group has run."""
    return x
