"""Attention inside windows, from packed queries, keys and values.

A fused kernel is made for long sequences; windows of some dozens of tokens leave it little to fuse. In bfloat16 on a
CPU, one copy of all heads, two batched products and a softmax in fp32, which rounds once and is faster than bfloat16's,
take less time than the fused kernel wherever gradients are recorded, and without gradients where the CPU has no matrix
tiles. fp32 is left to the fused kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.kernels.cpu import FUSED_BF16_ATTENTION_IS_SLOW, is_eager_on_cpu

#: Windows of more tokens than this go to the fused kernel always.
FEW_TOKENS = 128


def attend_packed(qkv: Tensor, bias: Tensor | None = None, dropout: float = 0.0, scale: float | None = None) -> Tensor:
    """Let every window's tokens attend one another.

    Args:
        qkv: ``(n, L, 3, heads, d)`` of n windows.
        bias: added to the scores before the softmax, ``(L, L)``, ``(heads, L, L)``, or one for each window,
            ``(n, 1 or heads, L, L)``.
        dropout: the rate at which attention weights are dropped.
        scale: factor of the products of queries and keys, ``d ** -0.5`` by default.

    Returns:
        ``(n, L, heads * d)``.
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    if not dropout and _is_better_unfused(qkv):
        return _attend_unfused(qkv, bias, scale)
    query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
    if bias is not None:
        bias = bias.to(query.dtype)
        bias = bias.unsqueeze(0) if bias.ndim == 3 else bias
    out = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2).flatten(2)


def _is_better_unfused(qkv: Tensor) -> bool:
    return (
        qkv.dtype == torch.bfloat16
        and qkv.shape[1] <= FEW_TOKENS
        and is_eager_on_cpu(qkv)
        and (torch.is_grad_enabled() or FUSED_BF16_ATTENTION_IS_SLOW)
    )


def _attend_unfused(qkv: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attend as :func:`attend_packed`, all windows and heads in one batched product, the softmax in fp32."""
    windows, heads = qkv.shape[0], qkv.shape[3]
    query, key, value = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
    scores = torch.bmm(query, key.transpose(1, 2)).float().unflatten(0, (windows, heads))
    if scale != 1:
        scores.mul_(scale)
    if bias is not None:
        scores.add_(bias)
    weights = scores.softmax(dim=-1).to(qkv.dtype).flatten(0, 1)
    out = torch.bmm(weights, value).unflatten(0, (windows, heads))
    return out.transpose(1, 2).flatten(2)
