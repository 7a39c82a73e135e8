"""Attention over tensors that do not have four axes, in a form that ONNX's exporter takes."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def attend_over_four_axes(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *more: Any, **named: Any
) -> Tensor:
    """Compute ``torch.nn.functional.scaled_dot_product_attention`` through a call that sees four axes.

    Hiera and NesT have windows beside heads, SAM has no batch.

    Args:
        query: ``(..., N, d)``.
        key: ``(..., M, d)``.
        value: ``(..., M, e)``.
        attn_mask: ``(..., N, M)``, whose leading axes may be missing, or 1.
        more, named: torch's.

    Returns:
        ``(..., N, e)``.
    """
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
