"""Long attention in bfloat16 on the CPU.

torch's fused kernel takes as long in bfloat16 as in fp32 where the CPU has no matrix tiles (AMX): it multiplies pieces
too small for the units that bfloat16 has. Products of whole heads, or of as much of one as leaves its scores in the
caches, take a quarter to a half less time. The scores are bfloat16 between the two products, as they are in any
attention that is written out under autocast.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adapters.kernels.chunks import PIECE_BYTES, is_plain_pass
from adapters.kernels.linear import BF16_IS_FAST

#: The fused kernel is the faster one below so many keys, or so many scores of a head.
FEWEST_KEYS = 128
FEWEST_SCORES = 192**2
#: Pixels of a batch below which looking for calls of attention costs more than they could gain.
FEWEST_PIXELS = 512**2

_KERNEL_IS_SLOW = BF16_IS_FAST and not getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


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
    """``torch.nn.functional.scaled_dot_product_attention``, in the form that is the fastest on the device.

    Args:
        query: ``(B, heads, N, d)``.
        key: ``(B, heads, M, d)``.
        value: ``(B, heads, M, e)``.
        attn_mask, dropout_p, is_causal, scale, enable_gqa: torch's.

    Returns:
        ``(B, heads, N, e)``.
    """
    plain = attn_mask is None and not dropout_p and not is_causal and not enable_gqa
    if plain and _goes_in_pieces(query, key, value):
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
        return _attend_in_pieces(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def attention_of(trunk: nn.Module, image: Tensor) -> AbstractContextManager[object]:
    """What timm's own blocks are to run in: calls of torch's attention become calls of :func:`attend`.

    Args:
        trunk: of timm; without fused attention anywhere, there is nothing to look for.
        image: ``(B, C, H, W)``, what the pass is on.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype
    wanted = _KERNEL_IS_SLOW and dtype == torch.bfloat16 and is_plain_pass(image)
    large = image[:, 0].numel() >= FEWEST_PIXELS
    if wanted and large and any(hasattr(module, "fused_attn") for module in trunk.modules()):
        return _Attend()
    return nullcontext()


class _Attend(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _goes_in_pieces(query: Tensor, key: Tensor, value: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    dtypes = {query.dtype, key.dtype, value.dtype}
    return (
        _KERNEL_IS_SLOW
        and is_plain_pass(query)
        and (dtypes == {torch.bfloat16} or (autocast and torch.float64 not in dtypes))
        and query.ndim == key.ndim == value.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and key.shape[2] >= FEWEST_KEYS
        and query.shape[2] * key.shape[2] >= FEWEST_SCORES
    )


def _attend_in_pieces(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """As many heads at once, or queries of one head, as have ``PIECE_BYTES`` of scores.

    The result is laid out as ``(B, N, heads, e)``, as the layers that follow take it.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    most = max(1, PIECE_BYTES // (keys * query.element_size()))
    heads_at_once = max(1, min(heads, most // queries))
    rows = -(-queries // -(-queries // most))  # pieces of even length
    scores = query.new_empty(heads_at_once * rows * keys)
    out = query.new_empty(batch, queries, heads, value.shape[3])
    for image in range(batch):
        for first in range(0, heads, heads_at_once):
            some = slice(first, first + heads_at_once)
            turned = (key[image, some] * scale).transpose(1, 2)
            for start in range(0, queries, rows):
                piece = query[image, some, start : start + rows]
                weights = scores[: piece.shape[0] * piece.shape[1] * keys].view(*piece.shape[:2], keys)
                torch.bmm(piece, turned, out=weights)
                torch.softmax(weights, dim=-1, out=weights)
                out[image, start : start + rows, some] = torch.bmm(weights, value[image, some]).transpose(0, 1)
    return out.transpose(1, 2)
