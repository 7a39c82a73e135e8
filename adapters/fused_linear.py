"""Linear layers, and their GELU, through oneDNN on the CPU.

``nn.Linear`` first copies its bias into the output, multiplies into that, and leaves the activation to one more pass
over memory. oneDNN does all three in one (the operator that torch's own compiler emits), a third to a half faster on
the MLPs of a transformer in a pass without gradients. Where gradients are wanted, the activation stays apart, and the
product and the one that gives the input's gradient are a tenth faster. Everywhere else (autocast, GPUs, tracing,
counting) the layers are torch's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn

from adapters.families.grafting import graft
from adapters.pieces import is_eager_on_cpu, rows_at_once

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class FusedLinear(nn.Linear):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        if not can_fuse(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled():
            return _Product.apply(x, self.weight, self.bias)
        return fused_linear(x, self)


class FusedMlp(Mlp):
    """timm's two-layer perceptron with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C')``."""
        gelu = gelu_kind(self.act)
        # Whatever has been put on a layer since (a hook, an adapter of another package) must not be passed by.
        untouched = all(type(layer) is FusedLinear and not layer._forward_hooks for layer in (self.fc1, self.fc2))
        plain = not self.training and not torch.is_grad_enabled()
        if gelu and untouched and plain and can_fuse(x, self.fc1.weight):
            rows = x.reshape(-1, x.shape[-1])
            step = rows_at_once(rows, len(rows), self.fc1.out_features * rows.element_size())
            if step == len(rows):
                return fused_linear(fused_linear(x, self.fc1, gelu), self.fc2)
            out = rows.new_empty(len(rows), self.fc2.out_features)
            for piece, result in zip(rows.split(step), out.split(step), strict=True):
                result.copy_(fused_linear(fused_linear(piece, self.fc1, gelu), self.fc2))
            return out.view(*x.shape[:-1], -1)
        return super().forward(x)


class _Product(torch.autograd.Function):
    """A linear layer with a derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = None
        if needs_x:
            # The derivative of the derivative is wanted where gradients are on.
            of_x = gradient @ weight if torch.is_grad_enabled() else onednn_linear(gradient, weight.t())
        # With the weight's gradient, MKL is the faster one.
        of_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if needs_weight else None
        return of_x, of_weight, rows.sum(0) if needs_bias else None


def can_fuse(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes it: fp32 on the CPU, without autocast."""
    return (
        _HAS_ONEDNN
        and is_eager_on_cpu(x)
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def fused_linear(x: Tensor, layer: nn.Linear, gelu: str | None = None) -> Tensor:
    """A linear layer, with GELU (``'none'`` exact, ``'tanh'`` approximated, as ``nn.GELU`` says) or without.

    Args:
        x: ``(..., in_features)``, for which :func:`can_fuse` holds, in a pass without gradients.
        layer: its weights.
        gelu: the kind of GELU, None for none.

    Returns:
        ``(..., out_features)``.
    """
    return onednn_linear(x, layer.weight, layer.bias, gelu)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str | None = None) -> Tensor:
    """``x @ weight.T + bias``, ``(..., I)`` and ``(O, I)`` -> ``(..., O)``, and GELU of it; no gradient is recorded."""
    run: Any = torch.ops.mkldnn._linear_pointwise
    if gelu is None:
        return run(x, weight, bias, "none", [], "")
    return run(x, weight, bias, "gelu", [], gelu)


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
