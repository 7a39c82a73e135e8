"""Mixed precision on the CPU, where mmengine's ``AmpOptimWrapper`` refuses to run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Trains under autocast to bfloat16 on the CPU. Parameters, gradients and the optimiser stay in fp32.

    bfloat16 has fp32's range, so there is no loss scale, and a checkpoint holds nothing more than that of mmengine's
    ``OptimWrapper``. mmcv's own operators (RoIAlign, deformable convolutions) have no bfloat16 kernels on the CPU and
    run in fp32.

    Args:
        optimizer: the optimiser to wrap.
        options: ``accumulative_counts`` and ``clip_grad`` of ``OptimWrapper``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        super().__init__(optimizer, **options)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast, and without synchronising where gradients accumulate."""
        with super().optim_context(model), mmcv_operators_in_fp32(model), torch.autocast("cpu", torch.bfloat16):
            yield


@contextmanager
def mmcv_operators_in_fp32(model: nn.Module) -> Iterator[None]:
    """Switch autocast off, and cast bfloat16 inputs to fp32, inside every module of ``model`` that mmcv.ops defines."""
    handles = []
    contexts: dict[nn.Module, ExitStack] = {}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        contexts[module] = ExitStack()
        contexts[module].enter_context(torch.autocast("cpu", enabled=False))
        return tree_map_only(Tensor, _to_fp32, (args, kwargs))

    def leave(module: nn.Module, *_: Any) -> None:
        contexts.pop(module).close()

    for module in model.modules():
        if type(module).__module__.startswith("mmcv.ops."):
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _to_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
