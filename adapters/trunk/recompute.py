"""Gradient checkpointing for trunks of timm's, also where timm refuses it."""

import functools
import itertools
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from adapters.trunk.surgery import graft


def checkpoint_blocks(trunk: Any) -> None:
    """Switch on timm's own gradient checkpointing, or ours around each of the trunk's blocks where timm refuses."""
    try:
        trunk.set_grad_checkpointing(True)
    except (AssertionError, AttributeError, NotImplementedError):  # timm's ways of refusing, one for each generation
        blocks = _blocks(trunk)
        for block in blocks:
            cls: Any = type(block)
            graft(block, _checkpointed(cls))
        for run in () if blocks else _runs(trunk):
            _checkpoint_run(run)


@functools.cache
def _checkpointed(cls: Any) -> type[nn.Module]:
    """A subclass that recomputes its forward pass during the backward pass."""

    def forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return cls.forward(self, *arguments, **named)

        def run(*arguments: Any, **named: Any) -> Any:
            # HRNet's modules replace the maps in the list that they are given; the second pass needs it as it was.
            copies = (list(value) if isinstance(value, list) else value for value in arguments)
            return cls.forward(self, *copies, **named)

        return torch.utils.checkpoint.checkpoint(run, *arguments, use_reentrant=False, **named)

    return type(f"Checkpointed{cls.__name__}", (cls,), {"forward": forward})


def _blocks(trunk: nn.Module) -> list[nn.Module]:
    """The stages or blocks: what the trunk's containers hold, and its other children, as far as they have layers."""
    blocks: list[nn.Module] = []
    for child in trunk.children():
        blocks += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
    return [block for block in blocks if any(True for _ in block.children()) and any(True for _ in block.parameters())]


def _runs(trunk: nn.Module) -> list[list[nn.Module]]:
    """Layers between two poolings, of trunks that are one list of layers (VGG), whose maps come before a pooling."""
    runs: list[list[nn.Module]] = []
    for container in trunk.children():
        layers = list(container.children()) if isinstance(container, nn.Sequential) else []
        for pools, run in itertools.groupby(layers, lambda layer: isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)):
            runs += [] if pools else [list(run)]
    return [run for run in runs if any(True for layer in run for _ in layer.parameters())]


def _checkpoint_run(run: list[nn.Module]) -> None:
    """Have the first layer run all, recomputed in the backward pass, and the others hand on what they get."""
    classes: list[Any] = [type(layer) for layer in run]
    for layer, cls in list(zip(run, classes, strict=True))[1:]:
        graft(layer, _handing_on(cls))
    first: Any = graft(run[0], _running_all(classes[0]))
    first.run = tuple(zip((cls.forward for cls in classes), run, strict=True))


@functools.cache
def _handing_on(cls: Any) -> type[nn.Module]:
    def forward(_: nn.Module, x: Tensor) -> Tensor:
        return x

    return type(f"HandingOn{cls.__name__}", (cls,), {"forward": forward})


@functools.cache
def _running_all(cls: Any) -> type[nn.Module]:
    def forward(self: Any, x: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            for forward, layer in self.run:
                x = forward(layer, x)
            return x

        return torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if torch.is_grad_enabled() else run(x)

    return type(f"RunningAll{cls.__name__}", (cls,), {"forward": forward})
