"""One side in one process: seconds, peak memory, multiply-adds, and the rate of the machine itself."""

import ctypes
import gc
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.describe.flops import flop_counter
from lab.benchmark import peers
from lab.benchmark.cases import ADAPTER, Case
from lab.benchmark.results import Settings

#: Sides of the square matrices whose product gives the machine's rate.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
#: Share of the free memory that a process may take, so that the system ends no neighbour of ours.
MEMORY_SHARE = 0.9
#: glibc's ``mallopt`` parameter for the size from which memory is a mapping of its own, and that size.
M_MMAP_THRESHOLD = -3
RETURNED_BYTES = 256 * 1024


class Bench:
    """One side of a case, ready to be run on one image batch.

    Args:
        kind: the side, a key of ``peers.PEERS``.
        case: as this side gets it.
        settings: of the run.
    """

    def __init__(self, kind: str, case: Case, settings: Settings) -> None:
        self.kind = kind
        self.settings = settings
        self.device = torch.device(settings.device)
        self.trains = case.mode == "train"
        self.side = peers.build(kind, case)
        self.side.module.to(self.device).train(self.trains)
        generator = torch.Generator().manual_seed(peers.SEED)
        self.image = torch.randn(case.batch, 3, *case.size, generator=generator).to(self.device)

    def run(self, dtype: str | None = None) -> list[Tensor]:
        """Run forward, in train mode also backward from the maps' mean squares; return the maps ``(B, C, h, w)``."""
        dtype = dtype or self.settings.dtype
        self.side.module.zero_grad(set_to_none=True)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bf16")
        with torch.set_grad_enabled(self.trains), autocast:
            maps = list(self.side.maps(self.image))
        if self.trains:
            torch.stack([feature_map.float().square().mean() for feature_map in maps]).sum().backward()
        return maps

    def save_outputs(self, path: str, dtype: str | None = None) -> tuple[float, int]:
        """Write maps and gradients, under timm's names, to a file; also warms up.

        In eval mode, since SwinV2-CR's position network drops out in training.

        Returns:
            Seconds, and the floating point operations of the matrix products, convolutions and attention.
        """
        self.side.module.eval()
        start = time.perf_counter()
        with flop_counter() as counter:
            maps = self.run(dtype)
        if self.kind == ADAPTER:
            maps = self.run(dtype)  # while operations are counted, an adapter goes another way than when it is timed
        maps = [feature_map.detach().float().cpu() for feature_map in maps]
        seconds = time.perf_counter() - start
        self.side.module.train(self.trains)
        gradients = {
            name: parameter.grad.cpu()
            for name, parameter in self.side.module.named_parameters()
            if parameter.grad is not None
        }
        torch.save({"maps": maps, "gradients": self.side.to_timm(gradients)}, path)
        return seconds, counter.get_total_flops()

    def seconds(self) -> float:
        """Time one run."""
        gc.collect()
        return elapsed(self.run, self.device)

    def peak_bytes(self) -> int:
        """Measure the memory that one run takes at most beyond that of before it: imports, weights, image."""
        touch_kernels(self.device, self.trains)
        if self.device.type == "cpu":
            return peak_resident_bytes(self.run)
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def matrix_rate(self) -> float:
        """Measure the floating point operations per second of one large matrix product in the run's dtype."""
        side = MATRIX_SIDE[self.device.type]
        dtype = torch.bfloat16 if self.settings.dtype == "bf16" else torch.float32
        matrix = torch.ones(side, side, dtype=dtype, device=self.device)
        matrix @ matrix
        return 2 * side**3 / statistics.median(elapsed(lambda: matrix @ matrix, self.device) for _ in range(3))


def elapsed(run: Callable[[], object], device: torch.device) -> float:
    """Time one call in seconds: by the clock on the CPU, by events on a GPU."""
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000


def seconds_in_turns(runs: Mapping[Any, Callable[[], object]], repeats: int, warm_ups: int = 1) -> dict[Any, float]:
    """Time calls on the CPU by name, one after the other and again; return the median seconds of each.

    Args:
        runs: by name.
        repeats: timed calls of each.
        warm_ups: calls of each before.
    """
    taken: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(warm_ups + repeats):
        for name, run in runs.items():
            taken[name].append(elapsed(run, torch.device("cpu")))
    return {name: statistics.median(seconds[warm_ups:]) for name, seconds in taken.items()}


def peak_resident_bytes(run: Callable[[], object]) -> int:
    """Measure by how many bytes the resident memory of this process rises during a call.

    The kernel keeps the high-water mark itself (``VmHWM``), so nothing has to be sampled and no peak is missed. Writing
    5 to ``clear_refs`` sets the mark back to what is resident now; ``ru_maxrss`` cannot be set back, and building the
    weights may have raised it above what the run takes.

    Freed tensors go back to the system at once, as they do to a GPU's allocator. By default glibc learns to keep ever
    larger ones in its heap, whose holes between tensors that stay (gradients) then count as long as those stay: of
    ConViT-Base's 512 x 512 step under ``with_cp`` two thirds of what was resident was holes.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_status("VmRSS")
    run()
    return memory_status("VmHWM") - before


def memory_status(field: str) -> int:
    """Read a field of ``/proc/self/status``, in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None, field
    return int(match[1]) * 1024


def prepare_process(settings: Settings) -> None:
    """Set up a process: its threads, exact fp32, and an end to its memory before the machine's."""
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = False
    if settings.device == "cpu":
        limit_memory()


def limit_memory() -> None:
    """Have an allocation fail that this machine's memory cannot hold, before the system ends some process for it."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert match is not None
    limit = memory_status("VmSize") + int(MEMORY_SHARE * int(match[1]) * 1024)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def touch_kernels(device: torch.device, trains: bool) -> None:
    """Use each kind of operation once on little data: the code of a library counts as resident once it has run."""
    with torch.set_grad_enabled(trains):
        x = torch.ones(1, 32, 16, 16, device=device, requires_grad=trains)
        weight = torch.ones(32, 32, device=device, requires_grad=trains)
        kernel = torch.ones(32, 32, 3, 3, device=device, requires_grad=trains)
        tokens = F.conv2d(x, kernel, padding=1).flatten(2).transpose(1, 2)
        tokens = F.gelu(F.linear(F.layer_norm(tokens, (32,)), weight, weight[0]))
        heads = tokens.view(1, -1, 2, 16).transpose(1, 2)
        scores = (heads @ heads.transpose(-2, -1)).softmax(dim=-1)
        total = (F.scaled_dot_product_attention(heads, heads, heads) + scores @ heads).square().mean()
        if trains:
            total.backward()
