"""Time and memory of our deformable attention beside mmcv's in pure torch, forward and backward, taken in turns.

Two cases, each of an image of 800 x 1344: what the spatial prior asks for (cells of strides 8, 16 and 32 read tokens of
stride 16), and the encoder of Deformable DETR (four levels read four levels).
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor

from adapters.describe.tables import markdown_table
from adapters.files import write_text
from adapters.kernels.deformable_attention import deformable_attention
from lab.benchmark.measure import peak_resident_bytes, seconds_in_turns
from lab.compare import relative_error

#: Points lie so far from their query, as a share of the map.
SPREAD = 0.05


@dataclass(frozen=True)
class Case:
    """The strides of the cells that ask and of the maps that are read, and the heads with their channels."""

    queries: tuple[int, ...]
    maps: tuple[int, ...]
    heads: int
    channels: int


CASES = {
    "spatial prior, ViT-B": Case((8, 16, 32), (16,), 16, 24),
    "Deformable DETR": Case((8, 16, 32, 64), (8, 16, 32, 64), 8, 32),
}
POINTS = 4
Sides = tuple[int, int]


def make_inputs(case: Case, size: Sides) -> tuple[list[Sides], list[Tensor]]:
    """Draw the sizes of the maps, values ``(1, N, heads, d)``, locations ``(1, Q, heads, levels, 4, 2)``, weights."""
    generator = torch.Generator().manual_seed(0)
    grids = {
        stride: (math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in (*case.queries, *case.maps)
    }
    sizes = [grids[stride] for stride in case.maps]
    places = torch.cat([
        torch.cartesian_prod(torch.linspace(0, 1, grids[stride][0]), torch.linspace(0, 1, grids[stride][1])).flip(1)
        for stride in case.queries
    ])  # fmt: skip
    shape = (1, len(places), case.heads, len(sizes), POINTS)
    value = torch.randn(1, sum(h * w for h, w in sizes), case.heads, case.channels, generator=generator)
    locations = places.view(1, -1, 1, 1, 1, 2) + SPREAD * torch.randn(*shape, 2, generator=generator)
    weights = torch.rand(shape, generator=generator).flatten(3).softmax(-1).view(shape)
    return sizes, [x.requires_grad_() for x in (value, locations, weights)]


def measure(case: Case, size: Sides, repeats: int) -> dict[str, dict[str, float]]:
    """Measure a case: seconds (median) and bytes (peak above the inputs) of both, and how far the numbers are apart."""
    sizes, inputs = make_inputs(case, size)
    shapes = torch.tensor(sizes)
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: deformable_attention(inputs[0], sizes, *inputs[1:]),
        "mmcv": lambda: multi_scale_deformable_attn_pytorch(inputs[0], shapes, *inputs[1:]),
    }
    gradient = torch.randn(sides["ours"]().shape, generator=torch.Generator().manual_seed(1))
    outputs: dict[str, list[Tensor]] = {}

    def step(name: str) -> None:
        outputs.pop(name, None)  # those of the turn before
        result = sides[name]()
        outputs[name] = [result.detach(), *torch.autograd.grad(result, inputs, gradient)]

    medians = seconds_in_turns({name: partial(step, name) for name in sides}, repeats)
    found = {name: {"seconds": seconds} for name, seconds in medians.items()}
    # Where a point lies on the line between two cells, either side's slope is right: locations are not compared here.
    found["ours"]["error"] = max(relative_error(outputs["ours"][i], outputs["mmcv"][i]) for i in (0, 1, 3))
    for name in sides:
        outputs.clear()
        found[name]["bytes"] = peak_resident_bytes(partial(step, name))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", nargs=2, type=int, default=(800, 1344), metavar=("H", "W"), help="image (default: 800 1344)")
    add("--repeats", type=int, default=7, help="timed passes of each, in turns (default: %(default)s)")
    add("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    add("--out", type=Path, default=Path("work_dirs/deformable"), help="folder of the table (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = []
    for name, case in CASES.items():
        found = measure(case, tuple(args.size), args.repeats)
        ours, mmcv = found["ours"], found["mmcv"]
        rows.append([
            name,
            *(f"{1000 * side['seconds']:.0f} ms" for side in (ours, mmcv)),
            f"{ours['seconds'] / mmcv['seconds']:.2f}",
            *(f"{side['bytes'] / 2**20:.0f} MiB" for side in (ours, mmcv)),
            f"{ours['bytes'] / mmcv['bytes']:.2f}",
            f"{ours['error']:.0e}",
        ])  # fmt: skip
    headings = ("case", "ours", "mmcv", "time", "ours", "mmcv", "memory", "difference")
    table = markdown_table(headings, rows, headings[1:]) + "\n"
    write_text(args.out / "deformable.md", table)
    print(table)
    return 0
