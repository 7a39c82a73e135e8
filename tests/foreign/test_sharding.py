"""FSDP2: parameters and gradients sharded over two processes are those of one."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from zoo import ZOO, image

PROCESSES = 2
NAMES = ("twins_svt", "swinv2_cr", "vit_rope_reg", "convit", "nest")


def shard_and_compare(rank: int, folder: str) -> None:
    """Compare one process's share of the gradients with those of the complete batch."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for spec in (spec for spec in ZOO if spec.name in NAMES):
        x = image(40, 56, batch=PROCESSES)
        one, sharded = spec.build(), spec.build()
        # Blocks of their own, as users shard: inner modules first.
        for module in list(sharded.trunk.modules()):
            if type(module).__name__.endswith(("Block", "TransformerLayer")):
                fully_shard(module, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        sum(feature_map.square().mean() for feature_map in one(x)).backward()
        sum(feature_map.square().mean() for feature_map in sharded(x[rank : rank + 1])).backward()
        for (name, parameter), other in zip(sharded.named_parameters(), one.parameters(), strict=True):
            gradient = parameter.grad.full_tensor()
            assert (gradient - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-6, (spec.name, name)
    Path(folder, f"done{rank}").touch()
    dist.destroy_process_group()


def test_sharded_gradients_are_one_processs(tmp_path: Path) -> None:
    mp.spawn(shard_and_compare, (str(tmp_path),), nprocs=PROCESSES)
    assert len(list(tmp_path.glob("done*"))) == PROCESSES
