"""Training on a machine without GPUs: mixed precision in bfloat16, and several processes through gloo.

mmengine's ``AmpOptimWrapper`` and its set-up of processes both take GPUs for granted.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from adapters.openmmlab.config_tree import children
from adapters.registry import register_optim_wrapper


@register_optim_wrapper
class CpuAmpOptimWrapper(OptimWrapper):
    """An optimiser wrapper that trains under autocast to bfloat16 on the CPU.

    Parameters, gradients and the optimiser stay in fp32. bfloat16 has fp32's range, so there is no loss scale, and a
    checkpoint holds nothing more than that of mmengine's ``OptimWrapper``. mmcv's own operators (RoIAlign, deformable
    convolutions, NMS) have no bfloat16 kernels on the CPU and run in fp32.

    Args:
        optimizer: the optimiser to wrap.
        options: ``accumulative_counts`` and ``clip_grad`` of ``OptimWrapper``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        super().__init__(optimizer, **options)
        patch_nms_for_bf16()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast, and without synchronising where gradients accumulate."""
        with super().optim_context(model), mmcv_operators_in_fp32(model), torch.autocast("cpu", torch.bfloat16):
            yield


def patch_nms_for_bf16() -> None:
    """Have mmcv's NMS cast its inputs to fp32 under autocast on the CPU, for the rest of the process.

    An RPN calls it in training with scores in bfloat16. NMS is a function, so that no hook of a module reaches it.
    """
    from mmcv.ops.nms import NMSop

    if not hasattr(NMSop, "casts_on_cpu"):
        forward = NMSop.forward
        NMSop.forward = staticmethod(lambda *args: forward(*tree_map_only(Tensor, _to_fp32, args)))
        NMSop.casts_on_cpu = True


@contextmanager
def mmcv_operators_in_fp32(model: nn.Module) -> Iterator[None]:
    """Switch autocast off, and cast bfloat16 inputs to fp32, inside every module of ``model`` that mmcv.ops defines.

    A module's outputs are in bfloat16 again where one of its inputs was.
    """
    handles = []
    contexts: dict[nn.Module, ExitStack] = {}
    lowered: set[nn.Module] = set()

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        contexts[module] = ExitStack()
        contexts[module].enter_context(torch.autocast("cpu", enabled=False))
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 for leaf in tree_flatten((args, kwargs))[0]):
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


def choose_precision(cfg: Config, amp: bool) -> list[str]:
    """Make the optimiser's wrapper one of mixed precision, if asked for, of the kind that the device can run.

    Args:
        cfg: the config of a run. Changed in place.
        amp: the user asked for mixed precision; a config may ask for it too.

    Returns:
        Notes for the user.

    Raises:
        ValueError: ``amp`` does not go with the type of the config's wrapper.
    """
    cpu_amp = CpuAmpOptimWrapper.__name__
    wrapper = cfg.optim_wrapper
    kind = wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper", cpu_amp):
        if amp:
            raise ValueError(f"--amp does not go with optim_wrapper.type={kind!r}; it takes 'OptimWrapper'.")
        return []
    if not amp and kind == "OptimWrapper":
        return []
    if get_device() != "cpu":
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
        if kind == cpu_amp:
            wrapper.setdefault("dtype", "bfloat16")
        return []
    wrapper.type = cpu_amp
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    return [f"no GPU here: mixed precision is bfloat16 on the CPU ({cpu_amp})"]


def distribute_on_cpu(cfg: Config) -> list[str]:
    """Set up several processes without GPUs: gloo, and batch norms that see their own process's images only.

    Args:
        cfg: the config of a run that a launcher has started. Changed in place.

    Returns:
        Notes for the user.
    """
    if cfg.launcher == "pytorch" and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    env_cfg = cfg.get("env_cfg") or {}
    cfg.env_cfg = {**env_cfg, "dist_cfg": {**env_cfg.get("dist_cfg", {}), "backend": "gloo"}}
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **(cfg.get("model_wrapper_cfg") or {}),
        "device_ids": None,
    }
    count = replace_sync_batch_norm(cfg.model)
    note = f"no GPU here: {count} norms of type SyncBN, which need GPUs, are BN and see their own process's images only"
    return [note] if count else []


def replace_sync_batch_norm(node: Any) -> int:
    """Turn SyncBN into BN everywhere in a config, in place; return the number of norms."""
    count = sum(replace_sync_batch_norm(child) for child in children(node))
    if isinstance(node, dict) and node.get("type") in ("SyncBN", "MMSyncBN"):
        node["type"] = "BN"
        count += 1
    return count
