"""Attention with four axes: any other number of axes, with and without a mask, gives what torch gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from adapters.export.attention import FourAxesAttention

Shape = tuple[int, ...]


class Recorder(TorchFunctionMode):
    """The numbers of axes that torch's attention is asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.axes: list[int] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.axes.append(args[0].ndim)
        return func(*args, **(kwargs or {}))


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
    with Recorder() as asked, FourAxesAttention():
        actual = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=0.3)
    torch.testing.assert_close(actual, expected)
    assert asked.axes == [4]
