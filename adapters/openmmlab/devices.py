"""Fitting a config to the device: precision, and several processes on a machine without GPUs."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from adapters.openmmlab.amp import CpuAmpOptimWrapper
from adapters.openmmlab.fit.config_tree import children

CPU_AMP = CpuAmpOptimWrapper.__name__


def choose_precision(cfg: Config, amp: bool) -> list[str]:
    """Make the optimiser's wrapper one of mixed precision, if asked for, of the kind that the device can run."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper", CPU_AMP):
        if amp:
            raise ValueError(f"--amp does not go with optim_wrapper.type={kind!r}; it takes 'OptimWrapper'.")
        return []
    if not amp and kind == "OptimWrapper":
        return []
    if get_device() != "cpu":
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
        if kind == CPU_AMP:
            wrapper.setdefault("dtype", "bfloat16")
        return []
    wrapper.type = CPU_AMP
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    return [f"no GPU here: mixed precision is bfloat16 on the CPU ({CPU_AMP})"]


def distribute_on_cpu(cfg: Config) -> list[str]:
    """Set up several processes without GPUs, which mmengine's own set-up takes for granted."""
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
    """Turn SyncBN into BN everywhere in a config; return how often."""
    count = sum(replace_sync_batch_norm(child) for child in children(node))
    if isinstance(node, dict) and node.get("type") in ("SyncBN", "MMSyncBN"):
        node["type"] = "BN"
        count += 1
    return count
