"""Changes of timm's modules in place: another class with methods of ours, and patch embeddings without a fixed size.

Parameters and their names stay untouched.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from timm.layers import PatchEmbed
from torch import nn

M = TypeVar("M", bound=nn.Module)
#: A function of a module, which can be pickled by name, from a class to the methods that its subclass overrides.
MakeMethods = Callable[[Any], Mapping[str, Callable[..., Any]]]


def graft(module: nn.Module, cls: type[M]) -> M:
    """Turn ``module`` into an instance of ``cls``, a subclass of its class that only overrides methods."""
    assert issubclass(cls, type(module)), f"{cls.__name__} must derive from {type(module).__name__}"
    module.__class__ = cls
    assert isinstance(module, cls)
    return module


def graft_methods(module: nn.Module, make_methods: MakeMethods) -> nn.Module:
    """Override methods of ``module``, whatever its class; it can be pickled and copied.

    Args:
        module: changed in place.
        make_methods: gives the methods for the module's class, which they may call.
    """
    cls: Any = type(module)
    root, makers = getattr(cls, "_derivation", (cls, ()))
    return graft(module, _derived(root, (*makers, make_methods)))


@functools.cache
def _derived(root: Any, makers: tuple[MakeMethods, ...]) -> type[nn.Module]:
    parent: Any = _derived(root, makers[:-1]) if makers[:-1] else root
    methods = {**makers[-1](parent), "__reduce__": _reduce, "_derivation": (root, makers)}
    derived: Any = type(parent.__name__, (parent,), methods)
    return derived


def _reduce(module: Any) -> tuple[Any, ...]:
    # A class made here has no name that pickle could look up.
    return _blank, module._derivation, vars(module)


def _blank(root: Any, makers: tuple[MakeMethods, ...]) -> nn.Module:
    """Return an instance for pickle and copy to fill."""
    cls: Any = _derived(root, makers)
    blank: nn.Module = cls.__new__(cls)
    return blank


def forget_size(embedding: Any) -> None:
    """Take away the size that timm checks an image against; adapters pad to whole patches before.

    The check's messages hold the image's sides, which makes them constants of a compiled graph: one graph a size.
    """
    if type(embedding) is PatchEmbed:
        embedding.img_size = None
    elif hasattr(embedding, "strict_img_size"):
        embedding.strict_img_size = False


def call_every_layer(trunk: nn.Module) -> None:
    """Have attention (EVA, BEiT, SwinV2) call its ``qkv`` layer and add its biases after that.

    timm otherwise reads the weight past the layer, so that a LoRA, a hook or a quantised weight has no effect.
    """
    module: Any
    for module in trunk.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True


def switch_off_bias_caches(trunk: nn.Module) -> None:
    """Have attention biases gathered in every pass, as timm does in training.

    In eval mode timm (LeViT, TinyViT, EfficientFormer and others) keeps them on the module: stale after a change of the
    parameters, without a gradient in a pass with gradients, and shared by threads.
    """
    for module in trunk.modules():
        if hasattr(module, "attention_bias_cache"):
            graft_methods(module, _gather_biases)


def _gather_biases(_: Any) -> dict[str, Callable[..., Any]]:
    def get_attention_biases(self: Any, device: Any) -> Any:  # noqa: ARG001, timm passes it
        return self.attention_biases[:, self.attention_bias_idxs]

    return {"get_attention_biases": get_attention_biases}
