"""Linear layers, and their GELU, through oneDNN on the CPU.

``nn.Linear`` first copies its bias into the output, multiplies into that, and leaves the activation to one more pass
over memory. oneDNN does all three in one (the operator that torch's own compiler emits), a third to a half faster on
the MLPs of a transformer in a pass without gradients, in fp32 as in bfloat16. Where gradients are wanted, the
activation stays apart; in fp32 the product and the one that gives the input's gradient are a tenth faster, in bfloat16
nothing is. Everywhere else (float16, GPUs, tracing, counting) the layers are torch's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn

from adapters.kernels.chunks import is_eager_on_cpu, rows_at_once
from adapters.trunk.surgery import graft

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
#: Whether this CPU multiplies in bfloat16 itself.
BF16_IS_FAST: bool = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
_DTYPES = (torch.float32, torch.bfloat16) if BF16_IS_FAST else (torch.float32,)


class FusedLinear(nn.Linear):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        dtype = fused_dtype(x, self.weight)
        if dtype is None or (torch.is_grad_enabled() and dtype != torch.float32):
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled():
            return _Product.apply(x, self.weight, self.bias)
        return onednn_linear(x.to(dtype), *weights_of(self, dtype))


class FusedMlp(Mlp):
    """timm's two-layer perceptron with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C')``."""
        gelu = gelu_kind(self.act)
        dtype = fused_dtype(x, self.fc1.weight)
        # Whatever has been put on a layer since (a hook, an adapter of another package) must not be passed by.
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in self.children())
        untouched = type(self.fc1) is type(self.fc2) is FusedLinear and not hooked
        plain = not self.training and not torch.is_grad_enabled()
        if dtype is None or gelu is None or not untouched or not plain:
            return super().forward(x)
        first, second = weights_of(self.fc1, dtype), weights_of(self.fc2, dtype)
        rows = x.reshape(-1, x.shape[-1])
        step = rows_at_once(rows, len(rows), self.fc1.out_features * dtype.itemsize)
        if step == len(rows):
            return onednn_linear(onednn_linear(x.to(dtype), *first, gelu), *second)
        out = rows.new_empty(len(rows), self.fc2.out_features, dtype=dtype)
        for piece, result in zip(rows.split(step), out.split(step), strict=True):
            result.copy_(onednn_linear(onednn_linear(piece.to(dtype), *first, gelu), *second))
        return out.view(*x.shape[:-1], -1)


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


def fused_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """In which dtype oneDNN is to multiply: that of the tensors, or autocast's; None where torch's own layer runs."""
    if not _HAS_ONEDNN or not is_eager_on_cpu(x) or x.numel() == 0:
        return None
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        if torch.float64 in (x.dtype, weight.dtype):  # autocast leaves it alone
            return None
        dtype = torch.get_autocast_dtype("cpu")
    elif weight.dtype != dtype:
        return None
    return dtype if dtype in _DTYPES else None


def weights_of(layer: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight ``(O, I)`` and bias ``(O,)`` of a layer, cast."""
    return layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)


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
