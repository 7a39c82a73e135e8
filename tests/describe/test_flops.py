"""FLOPs of attention and of grouped convolutions, which torch counts in part."""

import pytest
import torch
import torch.nn.functional as F

from adapters.describe.flops import flop_counter


@pytest.mark.parametrize("backward", [False, True])
def test_attention_and_depthwise_convolutions_are_counted(backward: bool) -> None:
    query, key, value = (torch.randn(2, 3, 50, 16, requires_grad=backward) for _ in range(3))
    x, depthwise = torch.randn(1, 8, 20, 20, requires_grad=True), torch.randn(8, 1, 3, 3, requires_grad=True)
    with flop_counter() as attention:
        out = F.scaled_dot_product_attention(query, key, value)
        if backward:
            out.sum().backward()
    # Two products forward, five backward: the scores anew, and a gradient for each of four factors.
    assert attention.get_total_flops() == (7 if backward else 2) * 2 * (2 * 3) * 50 * 50 * 16
    with flop_counter() as convolution:
        out = F.conv2d(x, depthwise, groups=8, padding=1)
        if backward:
            out.sum().backward()
    assert convolution.get_total_flops() == (3 if backward else 1) * 2 * 8 * 20 * 20 * 9
