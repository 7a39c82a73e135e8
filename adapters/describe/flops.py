"""The FLOPs of single operators, for torch's counter, attention included, on the path that the CPU and the GPU take.

:mod:`adapters.describe.counting` counts a whole model with it.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """Make a counter that counts while it is entered; ``get_total_flops()`` has two for each multiply-add.

    torch's own counter knows the fused attention of GPUs alone, and takes a depthwise convolution's backward for a
    dense one's.
    """
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
            aten.convolution_backward: convolution_backward,
        },
    )


def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """FLOPs of fused attention's forward, from shapes ``(B, heads, N, dim)``."""
    return sdpa_flop_count(query, key, value)


def attention_backward(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """FLOPs of fused attention's backward, the scores computed anew, from shapes ``(B, heads, N, dim)``."""
    return sdpa_backward_flop_count(gradient, query, key, value)


def convolution_backward(
    gradient: Any,
    image: Any,
    weight: Any,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: tuple[bool, bool, bool],
    **_: Any,
) -> int:
    """FLOPs of the gradients of image and weight, each as many as the forward's, from shapes."""
    del bias_sizes, stride, padding, dilation, output_padding, groups
    return conv_flop_count(image, weight, gradient, transposed) * sum(wanted[:2])
