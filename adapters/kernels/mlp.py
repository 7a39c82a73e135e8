"""timm's two-layer perceptron through oneDNN, in inference on a CPU.

oneDNN computes GELU together with the product before it. The hidden result of a detector's first stage has 50 to
100 MB, which would go to memory and back between the two layers; it is made a chunk of tokens at a time, small enough
for the caches. Everywhere else (gradients, other devices and dtypes, tracing, a layer that someone has changed) the
layers are called as the modules that they are.
"""

from typing import Any

import torch
from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn

from adapters.kernels.cpu import BF16_IS_FAST, HAS_ONEDNN, is_eager_cpu_inference, is_untouched
from adapters.kernels.versions import autocast_dtype

#: Bytes of the hidden result of a chunk. Larger ones leave the caches, smaller ones repeat fixed costs.
CHUNK_BYTES = 8 * 2**20
_GELUS = {nn.GELU, GELU, GELUTanh}
_DTYPES = (torch.float32, torch.bfloat16) if BF16_IS_FAST else (torch.float32,)


class FusedMlp(Mlp):
    """timm's perceptron with GELU; it holds the same layers, and calls them as modules wherever oneDNN cannot serve."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers, ``(..., C)`` -> ``(..., C')``."""
        dropping = self.training or self.drop1.training or self.drop2.training
        # Eager inference first: a graph cannot follow the other questions.
        if dropping or not HAS_ONEDNN or not is_eager_cpu_inference(x) or not is_untouched_mlp(self):
            return super().forward(x)
        gelu, dtype = gelu_kind(self.act), product_dtype(x, self.fc1, self.fc2)
        if gelu is None or dtype is None:
            return super().forward(x)
        first, second = cast_weights(self.fc1, dtype), cast_weights(self.fc2, dtype)
        tokens = x.reshape(-1, x.shape[-1])
        length = chunk_length(len(tokens), first[0].shape[0] * dtype.itemsize)
        if length == len(tokens):
            return onednn_linear(onednn_linear(x.to(dtype), *first, gelu), *second)
        out = tokens.new_empty(len(tokens), second[0].shape[0], dtype=dtype)
        for chunk, result in zip(tokens.split(length), out.split(length), strict=True):
            result.copy_(onednn_linear(onednn_linear(chunk.to(dtype), *first, gelu), *second))
        return out.view(*x.shape[:-1], -1)


def is_untouched_mlp(mlp: Any) -> bool:
    """Tell whether calling a perceptron of timm's does nothing but what its class and its layers' own classes do."""
    layers = {mlp: type(mlp), mlp.act: type(mlp.act), mlp.fc1: nn.Linear, mlp.fc2: nn.Linear}
    layers |= {mlp.drop1: nn.Dropout, mlp.norm: nn.Identity, mlp.drop2: nn.Dropout}
    return all(is_untouched(layer, cls) for layer, cls in layers.items())


def gelu_kind(activation: nn.Module) -> str | None:
    """Return oneDNN's name of an activation: ``'none'`` or ``'tanh'`` for a GELU, None for others."""
    if type(activation) not in _GELUS:
        return None
    if isinstance(activation, nn.GELU):
        return activation.approximate
    return "tanh" if isinstance(activation, GELUTanh) else "none"


def chunk_length(tokens: int, bytes_per_token: int) -> int:
    """Choose how many tokens a chunk has: all of them where the hidden result is no larger than two chunks."""
    if tokens * bytes_per_token < 2 * CHUNK_BYTES:
        return tokens
    return max(1, CHUNK_BYTES // bytes_per_token)


def takes_fused_form(module: nn.Module) -> bool:
    """Tell whether a module is a perceptron of timm's that :class:`FusedMlp` can stand for."""
    return type(module) is Mlp and type(module.norm) is nn.Identity


def product_dtype(x: Tensor, *layers: Any) -> torch.dtype | None:
    """Choose the dtype in which oneDNN multiplies: the tensors' own, or autocast's.

    Args:
        x: the input, ``(..., in_features)``.
        layers: the linear layers that are to be applied.

    Returns:
        None where oneDNN has no product of these.
    """
    if x.numel() == 0:
        return None
    dtypes = {x.dtype, *(layer.weight.dtype for layer in layers)}
    autocast = autocast_dtype("cpu")
    if autocast is not None and torch.float64 not in dtypes:  # autocast leaves doubles alone
        dtypes = {autocast}
    dtype = dtypes.pop()
    return dtype if not dtypes and dtype in _DTYPES else None


def cast_weights(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight ``(O, I)`` and bias ``(O,)`` in another dtype."""
    return layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias``, and GELU of it if asked, without recording a gradient.

    Args:
        x: ``(..., I)``.
        weight: ``(O, I)``.
        bias: ``(O,)`` or None.
        gelu: ``'none'`` for the exact GELU, ``'tanh'`` for its approximation, None for neither.

    Returns:
        ``(..., O)``.
    """
    run: Any = torch.ops.mkldnn._linear_pointwise
    if gelu is None:
        return run(x, weight, bias, "none", [], "")
    return run(x, weight, bias, "gelu", [], gelu)
