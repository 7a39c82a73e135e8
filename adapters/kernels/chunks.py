"""Working through long inputs in pieces whose intermediate results stay in the caches of a CPU.

A layer of a detector's first stage makes results of 50 to 100 MB, which go to memory and back between any two of its
operations, and which the system hands out page by page at each call. Where no gradients need them afterwards, a piece
at a time does the same in a fraction of the traffic.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

#: Of the largest intermediate result of a piece. Larger ones leave the caches, smaller ones repeat fixed costs.
PIECE_BYTES = 8 * 2**20
#: An input with intermediate results below this is not cut.
WHOLE_BYTES = 2 * PIECE_BYTES


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether this is a pass on the CPU that nothing traces, counts or transforms."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
    )


def is_plain_pass(x: Tensor) -> bool:
    """Whether this is such a pass, without gradients."""
    return not torch.is_grad_enabled() and is_eager_on_cpu(x)


def rows_at_once(x: Tensor, rows: int, bytes_per_row: int) -> int:
    """How many rows to work through at once.

    Args:
        x: a tensor of the input, whose device counts.
        rows: how many there are.
        bytes_per_row: of the largest intermediate result.

    Returns:
        ``rows`` where cutting would not help.
    """
    if rows * bytes_per_row < WHOLE_BYTES or not is_plain_pass(x):
        return rows
    return max(1, PIECE_BYTES // bytes_per_row)
