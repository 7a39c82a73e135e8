"""Linear layers through oneDNN, in inference on a CPU.

``nn.Linear`` first copies its bias into the output and then multiplies into that. oneDNN does both at once, by the
operator that torch's own compiler emits, in fp32 as in bfloat16. Everywhere else (gradients, other devices and dtypes,
tracing, a layer that someone has changed) the layer is called as the module that it is.
"""

from typing import Any

import torch
from torch import Tensor, nn

from adapters.kernels.cpu import BF16_IS_FAST, HAS_ONEDNN, is_eager_cpu_inference, is_untouched

_DTYPES = (torch.float32, torch.bfloat16) if BF16_IS_FAST else (torch.float32,)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer, ``(..., in_features)`` -> ``(..., out_features)``, faster than the layer itself if it can.

    Args:
        layer: ``nn.Linear``, or whatever has taken its place.
        x: the input.
    """
    dtype = product_dtype(x, layer)
    if dtype is None:
        return layer(x)
    return onednn_linear(x.to(dtype), *cast_weights(layer, dtype))


def product_dtype(x: Tensor, *layers: Any) -> torch.dtype | None:
    """Choose the dtype in which oneDNN multiplies: the tensors' own, or autocast's.

    Args:
        x: the input, ``(..., in_features)``.
        layers: the linear layers that are to be applied.

    Returns:
        None where the layers have to be called as modules.
    """
    if not HAS_ONEDNN or not is_eager_cpu_inference(x) or x.numel() == 0:
        return None
    if not all(is_untouched(layer, nn.Linear) for layer in layers):
        return None
    dtypes = {x.dtype, *(layer.weight.dtype for layer in layers)}
    if torch.is_autocast_enabled("cpu") and torch.float64 not in dtypes:  # autocast leaves doubles alone
        dtypes = {torch.get_autocast_dtype("cpu")}
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
