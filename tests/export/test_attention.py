"""Attention with four axes: any other number of axes, with and without a mask, gives what torch gives."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapters.export.attention import attend_over_four_axes
from adapters.kernels.redirected_attention import RedirectedAttention

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("leading", "mask"),
    [
        ((), None),
        ((3,), (3, 5, 7)),
        ((2, 3), (3, 5, 7)),
        ((2, 3, 4), None),
        ((2, 3, 4), (5, 7)),
        ((2, 3, 4), (3, 1, 5, 7)),
        ((2, 3, 4), (2, 1, 4, 5, 7)),
    ],
    ids=str,
)
def test_equals_torch(leading: Shape, mask: Shape | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(*leading, n, 4, generator=generator) for n in (5, 7, 7))
    bias = None if mask is None else torch.randn(mask, generator=generator)
    expected = F.scaled_dot_product_attention(query, key, value, bias, scale=0.3)
    axes: list[int] = []

    def record(query: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        axes.append(query.ndim)
        return F.scaled_dot_product_attention(query, *more, **named)

    with RedirectedAttention(record), RedirectedAttention(attend_over_four_axes):
        actual = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=0.3)
    torch.testing.assert_close(actual, expected)
    assert axes == [4]
