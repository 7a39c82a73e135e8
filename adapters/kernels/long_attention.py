"""Long attention in bfloat16, in inference on a CPU without matrix tiles (AMX).

torch's fused attention takes as long in bfloat16 as in fp32 there: it multiplies blocks too small for the units that
bfloat16 has. Products of whole heads, or of as many queries of one head as leave their scores in the caches, take a
quarter to a half less time. The scores are bfloat16 between the two products, as they are in any attention that is
written out under autocast.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.kernels.cpu import FUSED_BF16_ATTENTION_IS_SLOW, is_eager_cpu_inference
from adapters.kernels.redirected_attention import RedirectedAttention
from adapters.kernels.versions import autocast_dtype

#: Bytes of the scores that are made at once.
SCORE_BYTES = 8 * 2**20
#: The fused kernel is the faster one below so many keys, or so many scores of a head.
FEWEST_KEYS = 128
FEWEST_SCORES = 192**2
#: Pixels of a batch below which looking for calls of attention costs more than it could gain.
FEWEST_PIXELS = 512**2


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute ``torch.nn.functional.scaled_dot_product_attention``, in the form that is the fastest on the device.

    Args:
        query: ``(B, heads, N, d)``.
        key: ``(B, heads, M, d)``.
        value: ``(B, heads, M, e)``.
        attn_mask, dropout_p, is_causal, scale, enable_gqa: torch's.

    Returns:
        ``(B, heads, N, e)``.
    """
    is_simple = attn_mask is None and not dropout_p and not is_causal and not enable_gqa
    if is_simple and _is_better_unfused(query, key, value):
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
        return _attend_in_chunks(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    options = {"enable_gqa": True} if enable_gqa else {}  # torch 2.5
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)


def redirect_attention(trunk: nn.Module, image: Tensor) -> AbstractContextManager[object]:
    """Return a context in which the calls of torch's attention by timm's own blocks become calls of :func:`attend`.

    Args:
        trunk: timm's model; without fused attention anywhere, nothing is redirected.
        image: the input of the pass, ``(B, C, H, W)``; small ones are not worth looking.
    """
    dtype = autocast_dtype("cpu") or image.dtype
    wanted = FUSED_BF16_ATTENTION_IS_SLOW and dtype == torch.bfloat16 and is_eager_cpu_inference(image)
    large = image[:, 0].numel() >= FEWEST_PIXELS
    if wanted and large and any(hasattr(module, "fused_attn") for module in trunk.modules()):
        return RedirectedAttention(attend)
    return nullcontext()


def _is_better_unfused(query: Tensor, key: Tensor, value: Tensor) -> bool:
    autocast = autocast_dtype("cpu") == torch.bfloat16
    dtypes = {query.dtype, key.dtype, value.dtype}
    return (
        FUSED_BF16_ATTENTION_IS_SLOW
        and is_eager_cpu_inference(query)
        and (dtypes == {torch.bfloat16} or (autocast and torch.float64 not in dtypes))
        and query.ndim == key.ndim == value.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and key.shape[2] >= FEWEST_KEYS
        and query.shape[2] * key.shape[2] >= FEWEST_SCORES
    )


def _attend_in_chunks(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend as many heads at once, or queries of one head, as have ``SCORE_BYTES`` of scores.

    The result is laid out as ``(B, N, heads, e)``, as the layers that follow take it.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    rows_at_most = max(1, SCORE_BYTES // (keys * query.element_size()))
    heads_at_once = max(1, min(heads, rows_at_most // queries))
    rows = -(-queries // -(-queries // rows_at_most))  # chunks of even length
    scores = query.new_empty(heads_at_once * rows * keys)
    out = query.new_empty(batch, queries, heads, value.shape[3])
    for image in range(batch):
        for first in range(0, heads, heads_at_once):
            some = slice(first, first + heads_at_once)
            turned = (key[image, some] * scale).transpose(1, 2)
            for start in range(0, queries, rows):
                chunk = query[image, some, start : start + rows]
                weights = scores[: chunk.shape[0] * chunk.shape[1] * keys].view(*chunk.shape[:2], keys)
                torch.bmm(chunk, turned, out=weights)
                torch.softmax(weights, dim=-1, out=weights)
                out[image, start : start + rows, some] = torch.bmm(weights, value[image, some]).transpose(0, 1)
    return out.transpose(1, 2)
