"""Facts about this CPU, and the two questions that every kernel asks: may it run here, and is a layer torch's own.

What bfloat16 gets of its own hangs on these facts: ``kernels.mlp``, ``kernels.long_attention`` and
``kernels.packed_attention`` read them. Training in bfloat16 on a CPU is ``openmmlab.cpu_training``.
"""

import torch
from torch import Tensor, nn

from adapters.kernels.versions import are_transforms_active, has_global_hook, is_compiling, is_in_torch_dispatch_mode

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
#: The CPU multiplies in bfloat16 itself.
BF16_IS_FAST: bool = HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
#: torch's fused attention multiplies blocks that are too small for the bfloat16 units of a CPU without matrix tiles.
FUSED_BF16_ATTENTION_IS_SLOW: bool = BF16_IS_FAST and not getattr(torch.cpu, "_is_amx_tile_supported", bool)()

_TENSORS = (Tensor, nn.Parameter)


def is_eager() -> bool:
    """Tell whether nothing traces, counts or transforms the present pass, so that its tensors outlive it."""
    return not (is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode() or are_transforms_active())


def is_eager_on_cpu(x: Tensor) -> bool:
    """Tell whether a pass over ``x``, of any shape, runs on the CPU and nothing traces, counts or transforms it."""
    return type(x) in _TENSORS and x.device.type == "cpu" and is_eager()


def is_eager_cpu_inference(x: Tensor) -> bool:
    """Tell whether a pass over ``x``, of any shape, is eager, on the CPU and without gradients."""
    return not torch.is_grad_enabled() and is_eager_on_cpu(x)


def is_untouched(layer: nn.Module, cls: type[nn.Module]) -> bool:
    """Tell whether calling a layer does nothing but what its class does with plain tensors.

    A subclass (LoRA, a quantised layer, a parametrisation), a hook, a replaced ``forward`` or a tensor of another class
    (quantised, distributed, sparse) is someone else's work, which only calling the layer as a module respects.

    Args:
        layer: the layer that a kernel would compute.
        cls: the class that the kernel knows.
    """
    return (
        type(layer) is cls
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and not has_global_hook()
        and all(
            tensor is None or (type(tensor) in _TENSORS and tensor.layout is torch.strided)
            for tensor in layer._parameters.values()
        )
        and not any(isinstance(vars(layer).get(name), Tensor) for name in ("weight", "bias"))  # in a parameter's place
    )
