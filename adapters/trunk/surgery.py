"""Giving a module that timm built a forward pass of ours, with its parameters and their names untouched."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def graft(module: nn.Module, cls: type[M]) -> M:
    """Turn ``module`` into an instance of ``cls``, a subclass of its class that only overrides methods."""
    assert issubclass(cls, type(module)), f"{cls.__name__} must derive from {type(module).__name__}"
    module.__class__ = cls
    assert isinstance(module, cls)
    return module
