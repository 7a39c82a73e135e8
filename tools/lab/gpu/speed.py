"""Time and memory of adapters on a device beside timm and mmseg, in turns in one process."""

import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch

from lab.benchmark.cases import ADAPTER, CASES, Case
from lab.benchmark.measure import Bench
from lab.benchmark.results import Settings
from lab.compare import TOLERANCE, map_errors
from lab.gpu.rows import Row, attempt

#: The built-in cases in which a peer computes the same.
NAMES = (
    "convit-512", "swinv2_cr-896x1344", "twins_svt-800x1344", "twins_svt-800x1344-mmseg", "twins_pcpvt-800x1344",
    "vit_rope-800x1344", "convit-train", "twins_svt-train", "twins_pcpvt-train", "vit_rope-train",
)  # fmt: skip
REPEATS = 10


def check_speed(device: torch.device, size: tuple[int, int] | None = None) -> Iterator[Row]:
    """Time the cases in fp32 and bf16.

    Args:
        device: of both sides.
        size: of the images, where that is another than each case's.
    """
    for case in CASES:
        if case.name in NAMES:
            at_size = replace(case, size=size) if size else case
            for dtype in ("fp32", "bf16"):
                name = f"{case.name}, {dtype}, beside {case.peer}"
                yield attempt("speed", name, lambda c=at_size, d=dtype: race(c, Settings(device=str(device), dtype=d)))


def race(case: Case, settings: Settings) -> tuple[str, str]:
    """Return times, their ratio and that of the memory in words; a problem, where the maps differ."""
    device = torch.device(settings.device)
    sides = {"ours": Bench(ADAPTER, case, settings), case.peer: Bench(case.peer, case.for_peer(), settings)}
    for side in sides.values():
        side.side.module.eval()  # SwinV2-CR's position network drops out in training
    maps = {name: [one.detach().float() for one in side.run()] for name, side in sides.items()}
    error = max(map_errors(maps["ours"], maps[case.peer]))
    for side in sides.values():
        side.side.module.train(side.trains)
        side.run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(REPEATS if device.type == "cuda" else 1):
        for name, side in sides.items():
            times[name].append(side.seconds())
    ours, theirs = (1000 * statistics.median(taken) for taken in times.values())
    found = f"{ours:.1f} ms beside {theirs:.1f} ms: {theirs / ours:.2f} times faster"
    if device.type == "cuda":
        memory = [side.peak_bytes() / 2**20 for side in sides.values()]
        found += f"; {memory[0]:.0f} MiB beside {memory[1]:.0f} MiB"
    return f"{found}; maps {error:.1e}", "" if error <= TOLERANCE[settings.dtype] else "the maps differ"
