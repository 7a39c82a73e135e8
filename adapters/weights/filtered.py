"""timm's own rewriting of a checkpoint, and the values that it throws away."""

import contextlib
import io
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.weights.file import StateDict
from adapters.weights.key_prefixes import is_plain
from adapters.weights.timm_pretrained import TimmCheckpointInfo

#: Names of tables that are resampled to another size.
_TABLE = re.compile(r"pos(ition)?_embed|position_bias_table|rel_pos")


@dataclass(frozen=True)
class Filtered:
    """A checkpoint after timm's filter.

    Attributes:
        state: what came out.
        lost: the tensors of which not all values came out, with zeros for those that did.
        kept: the names before of those of which something came out.
    """

    state: StateDict
    lost: StateDict
    kept: frozenset[str]


def run_filter(state: StateDict, info: TimmCheckpointInfo, img_size: tuple[int, int] | None) -> Filtered | None:
    """Apply timm's filter to tensors of any shape; None where there is none or it fails, for it takes much for granted.

    Args:
        state: a checkpoint.
        info: timm's knowledge of the model's checkpoints.
        img_size: ``(H, W)`` for which its position embeddings are, if that is known.
    """
    if not info.has_filter or not all(is_plain(tensor) for tensor in state.values()):
        return None
    try:
        # timm prints what it does not expect.
        with contextlib.redirect_stdout(io.StringIO()):
            filtered = info.filter(state, img_size)
            used = _used_values(state, _not_copied(state, filtered), info, img_size)
    except Exception:
        return None
    lost: StateDict = {}
    for name, values in used.items():
        if values is None:
            lost[name] = state[name]
        elif not values.all():
            lost[name] = state[name].masked_fill(values, 0)
    kept = frozenset(name for name in state if name not in used or used[name] is not None)
    return Filtered(filtered, lost, kept)


def _not_copied(state: StateDict, filtered: StateDict) -> list[str]:
    """List the tensors that are not among the filtered ones as they are, or with other dimensions."""
    copies = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel()) for tensor in filtered.values()
    }
    return [
        name
        for name, tensor in state.items()
        if (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel()) not in copies
    ]


def _used_values(
    state: StateDict, changed: list[str], info: TimmCheckpointInfo, img_size: tuple[int, int] | None
) -> dict[str, Tensor | None]:
    """Mark the values on which the filtered tensors depend: those for which they have a gradient; None is for none."""
    traced = {
        name: state[name].detach().float().requires_grad_() for name in changed if state[name].is_floating_point()
    }
    with torch.enable_grad():
        outputs = info.filter({**state, **traced}, img_size).values()
        sums = [output.sum() for output in outputs if output.requires_grad]
        found = torch.autograd.grad(sums, list(traced.values()), allow_unused=True) if sums else [None] * len(traced)
    used: dict[str, Tensor | None] = dict.fromkeys(changed)
    for name, gradient in zip(traced, found, strict=True):
        if gradient is not None:
            # Tables of positions are sampled; that some are passed over is no loss.
            used[name] = torch.ones_like(gradient, dtype=torch.bool) if _TABLE.search(name) else gradient != 0
    return used
