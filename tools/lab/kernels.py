"""Time of adapters with each kernel of ours and without it, taken in turns in one process.

A kernel stays in the package as long as its best row gains a tenth. Forward passes of a detector's size run without
gradients; training is a forward and a backward pass.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tqdm import tqdm

from adapters import BackboneAdapter, TimmAdapter
from adapters.describe.tables import markdown_table
from adapters.files import write_text
from adapters.kernels import cpu, long_attention, mlp, packed_attention
from lab.benchmark.measure import seconds_in_turns

MODELS = ("twins_svt_small", "twins_pcpvt_small", "swinv2_cr_tiny_ns_224", "vit_small_patch16_224", "convit_tiny")
SIZES = {"forward": (800, 1344), "train": (512, 512)}
DTYPES = {"fp32": None, "bf16": torch.bfloat16}

#: The kernels by name: the module's attribute to replace, and the value that switches the kernel off.
KERNELS: dict[str, tuple[Any, str, object]] = {
    "MLP": (mlp, "product_dtype", lambda _x, *_layers: None),
    "chunks of the MLP": (mlp, "chunk_length", lambda tokens, _bytes: tokens),
    "windows unfused": (packed_attention, "_is_better_unfused", lambda _qkv: False),
    "long attention": (long_attention, "FUSED_BF16_ATTENTION_IS_SLOW", False),
}
#: Kernels that cannot take part in a pass, by dtype and mode.
INERT = {
    "MLP": {("fp32", "train"), ("bf16", "train")},
    "chunks of the MLP": {("fp32", "train"), ("bf16", "train")},
    "windows unfused": {("fp32", "forward"), ("fp32", "train")},
    "long attention": {("fp32", "forward"), ("fp32", "train"), ("bf16", "train")},
}


@dataclass(frozen=True)
class Row:
    """Medians of one pass, in seconds, with a kernel and without."""

    kernel: str
    model: str
    dtype: str
    mode: str
    size: tuple[int, int]
    with_kernel: float
    without: float

    def cells(self) -> list[str]:
        """Return the row's cells as text."""
        size = f"{self.size[0]}x{self.size[1]}"
        times = [f"{1000 * seconds:.0f} ms" for seconds in (self.with_kernel, self.without)]
        return [self.kernel, self.model, self.dtype, self.mode, size, *times, f"{self.without / self.with_kernel:.2f}"]


@contextmanager
def switched_off(name: str) -> Iterator[None]:
    """Run without one kernel."""
    module, attribute, value = KERNELS[name]
    with mock.patch.object(module, attribute, value):
        yield


def make_pass(adapter: BackboneAdapter, dtype: str, mode: str, size: tuple[int, int]) -> Callable[[], None]:
    """Make the pass that is timed: forward without gradients, or forward and backward."""
    x = torch.randn(1, adapter.in_channels, *size, generator=torch.Generator().manual_seed(0))
    trains = mode == "train"
    adapter.train(trains)

    def run() -> None:
        autocast = nullcontext() if DTYPES[dtype] is None else torch.autocast("cpu", DTYPES[dtype])
        with torch.set_grad_enabled(trains):
            with autocast:
                maps = adapter(x)
            if trains:
                adapter.zero_grad(set_to_none=True)
                sum(feature_map.float().square().mean() for feature_map in maps).backward()

    return run


def measure(run: Callable[[], None], kernels: Sequence[str], repeats: int) -> dict[str, float]:
    """Return the median seconds of a pass with all kernels, under ``""``, and without each, taken in turns."""

    def run_without(name: str) -> None:
        with switched_off(name) if name else nullcontext():
            run()

    return seconds_in_turns({name: partial(run_without, name) for name in ("", *kernels)}, repeats)


def measure_model(model: str, dtype: str, mode: str, size: tuple[int, int], repeats: int) -> list[Row]:
    """Measure the kernels that can take part in a model's pass."""
    kernels = [name for name in KERNELS if (dtype, mode) not in INERT[name] and takes_part(name, model, mode)]
    if not kernels:
        return []
    torch.manual_seed(0)
    medians = measure(make_pass(TimmAdapter(model), dtype, mode, size), kernels, repeats)
    return [Row(name, model, dtype, mode, size, medians[""], medians[name]) for name in kernels]


def takes_part(kernel: str, model: str, mode: str) -> bool:
    """Tell whether this CPU and this model have use for a kernel."""
    has_windows = model.startswith(("twins_svt", "swinv2_cr"))
    if kernel == "windows unfused":
        return has_windows and (mode == "train" or cpu.FUSED_BF16_ATTENTION_IS_SLOW)
    if kernel == "long attention":
        return cpu.FUSED_BF16_ATTENTION_IS_SLOW and not model.startswith("swinv2_cr")
    return True


def to_markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a table; the last column is the time without the kernel over that with it."""
    headings = ("kernel", "model", "dtype", "mode", "size", "with", "without", "gain")
    return markdown_table(headings, [row.cells() for row in rows], headings[5:]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=list(MODELS), metavar="NAME", help="timm models (default: %(default)s)")
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="bf16: autocast")
    add("--modes", nargs="+", choices=SIZES, default=list(SIZES), help="forward without gradients, train with them")
    add(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="of all images (default: 800 1344 forward, 512 512 train)"
    )
    add("--repeats", type=int, default=9, help="timed passes of each, in turns (default: %(default)s)")
    add("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    add("--out", type=Path, default=Path("work_dirs/kernels"), help="folder of the table (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    passes = [(model, dtype, mode) for model in args.models for dtype in args.dtypes for mode in args.modes]
    rows: list[Row] = []
    for model, dtype, mode in tqdm(passes, dynamic_ncols=True, disable=None):
        size = tuple(args.size) if args.size else SIZES[mode]
        rows += measure_model(model, dtype, mode, size, args.repeats)
    table = to_markdown(sorted(rows, key=lambda row: list(KERNELS).index(row.kernel)))
    print(table)
    write_text(args.out / "kernels.md", table)
    print(f"Written: {args.out / 'kernels.md'}")
    return 0
