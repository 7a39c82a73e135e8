"""Mixed precision on the CPU, where mmengine's ``AmpOptimWrapper`` refuses to run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Trains under autocast to bfloat16 on the CPU. Parameters, gradients and the optimiser stay in fp32.

    bfloat16 has fp32's range, so there is no loss scale, and a checkpoint holds nothing more than that of mmengine's
    ``OptimWrapper``. mmcv's own operators (RoIAlign, deformable convolutions, NMS) have no bfloat16 kernels on the CPU
    and run in fp32.

    Args:
        optimizer: the optimiser to wrap.
        options: ``accumulative_counts`` and ``clip_grad`` of ``OptimWrapper``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        super().__init__(optimizer, **options)
        run_nms_in_fp32()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast, and without synchronising where gradients accumulate."""
        with super().optim_context(model), mmcv_operators_in_fp32(model), torch.autocast("cpu", torch.bfloat16):
            yield


def run_nms_in_fp32() -> None:
    """Have mmcv's NMS, which is no module, cast its inputs to fp32 under autocast on the CPU, and change nothing else.

    An RPN calls it in training, with scores in bfloat16.
    """
    from mmcv.ops.nms import NMSop

    if not hasattr(NMSop, "casts_on_cpu"):
        cast = torch.amp.custom_fwd(NMSop.forward, device_type="cpu", cast_inputs=torch.float32)
        NMSop.forward = staticmethod(cast)
        NMSop.casts_on_cpu = True


@contextmanager
def mmcv_operators_in_fp32(model: nn.Module) -> Iterator[None]:
    """Switch autocast off, and cast bfloat16 inputs to fp32, inside every module of ``model`` that mmcv.ops defines.

    What comes out is in bfloat16 again where something that came in was.
    """
    handles = []
    contexts: dict[nn.Module, ExitStack] = {}
    lowered: set[nn.Module] = set()

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        contexts[module] = ExitStack()
        contexts[module].enter_context(torch.autocast("cpu", enabled=False))
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 for leaf in tree_leaves((args, kwargs))):
            lowered.add(module)
        return tree_map_only(Tensor, _to_fp32, (args, kwargs))

    def leave(module: nn.Module, _: Any, output: Any) -> Any:
        contexts.pop(module).close()
        if module in lowered:
            lowered.remove(module)
            return tree_map_only(Tensor, _to_bfloat16, output)
        return output

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


def _to_bfloat16(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.dtype == torch.float32 else tensor
