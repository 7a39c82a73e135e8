"""Attention over tensors that do not have four axes, in a form that ONNX's exporter takes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FourAxesAttention(TorchFunctionMode):
    """A context in which torch's attention sees four axes; Hiera and NesT give it windows beside heads, SAM less."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (_attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *more: Any, **named: Any
) -> Any:
    if query.ndim == 4:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *more, **named)
    leading = query.shape[:-2]
    if attn_mask is not None:
        attn_mask = _with_four_axes(attn_mask.expand(*leading, *attn_mask.shape[-2:]))
    query, key, value = (_with_four_axes(tensor) for tensor in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask, *more, **named)
    return out.reshape(*leading, *out.shape[-2:])


def _with_four_axes(tensor: Tensor) -> Tensor:
    """Reshape ``(..., N, d)`` to ``(1, heads, N, d)``, without a division, which free sizes make slow to trace."""
    return tensor.flatten(0, -3)[None] if tensor.ndim > 2 else tensor[None, None]
