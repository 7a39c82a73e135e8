"""Linear layers and their GELU in one oneDNN call, for passes without gradients on the CPU.

``nn.Linear`` first copies its bias into the output, multiplies into that, and leaves the activation to one more pass
over memory. oneDNN does all three in one (the operator that torch's own compiler emits), a third to a half faster on
the MLPs of a transformer. Everywhere else (gradients, autocast, GPUs, tracing, counting) the layers are torch's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn

from adapters.families.grafting import graft
from adapters.pieces import is_plain_pass, rows_at_once

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class FusedLinear(nn.Linear):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        if can_fuse(x, self.weight):
            return fused_linear(x, self)
        return F.linear(x, self.weight, self.bias)


class FusedMlp(Mlp):
    """timm's two-layer perceptron with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C')``."""
        gelu = gelu_kind(self.act)
        # Whatever has been put on a layer since (a hook, an adapter of another package) must not be passed by.
        untouched = all(type(layer) is FusedLinear and not layer._forward_hooks for layer in (self.fc1, self.fc2))
        if gelu and untouched and not self.training and can_fuse(x, self.fc1.weight):
            rows = x.reshape(-1, x.shape[-1])
            out = rows.new_empty(len(rows), self.fc2.out_features)
            step = rows_at_once(rows, len(rows), self.fc1.out_features * rows.element_size())
            for piece, result in zip(rows.split(step), out.split(step), strict=True):
                result.copy_(fused_linear(fused_linear(piece, self.fc1, gelu), self.fc2))
            return out.view(*x.shape[:-1], -1)
        return super().forward(x)


def can_fuse(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes it: fp32 on the CPU, in a plain pass without gradients."""
    return (
        _HAS_ONEDNN
        and is_plain_pass(x)
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def fused_linear(x: Tensor, layer: nn.Linear, gelu: str | None = None) -> Tensor:
    """A linear layer, with GELU (``'none'`` exact, ``'tanh'`` approximated, as ``nn.GELU`` says) or without.

    Args:
        x: ``(..., in_features)``, for which :func:`can_fuse` holds.
        layer: its weights.
        gelu: the kind of GELU, None for none.

    Returns:
        ``(..., out_features)``.
    """
    run: Any = torch.ops.mkldnn._linear_pointwise
    if gelu is None:
        return run(x, layer.weight, layer.bias, "none", [], "")
    return run(x, layer.weight, layer.bias, "gelu", [], gelu)


def gelu_kind(activation: nn.Module) -> str | None:
    """How oneDNN calls an activation, if it is a GELU."""
    if type(activation) is nn.GELU:
        return activation.approximate
    return {GELU: "none", GELUTanh: "tanh"}.get(type(activation))


def fuse_linears(module: nn.Module) -> None:
    """Give every plain linear layer and MLP below ``module`` the fused form; parameters and names stay."""
    for child in module.modules():
        if type(child) is nn.Linear:
            graft(child, FusedLinear)
        elif type(child) is Mlp and isinstance(child.norm, nn.Identity):
            graft(child, FusedMlp)
