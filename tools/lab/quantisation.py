"""Quantised adapters beside those in fp32: how far their maps are off, how long they take, how large they are.

Linear layers are quantised, by torchao or by torch itself; convolutions and attention stay in fp32. Passes are taken in
turns in one process, without gradients.
"""

import argparse
import copy
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from tqdm import tqdm

from adapters import BackboneAdapter, TimmAdapter
from adapters.describe.tables import markdown_table
from adapters.files import write_text
from lab.benchmark.measure import seconds_in_turns

MODELS = ("twins_svt_small", "swinv2_cr_tiny_ns_224", "vit_small_patch16_224", "convit_tiny")
SIZE = (512, 512)


def _by_torchao(config: object) -> Callable[[BackboneAdapter], BackboneAdapter]:
    def quantise(adapter: BackboneAdapter) -> BackboneAdapter:
        quantize_(adapter, config)
        return adapter

    return quantise


def _by_torch(adapter: BackboneAdapter) -> BackboneAdapter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return quantize_dynamic(adapter, {nn.Linear}, dtype=torch.qint8)


#: The ways by name; each changes an adapter and returns it.
WAYS: Mapping[str, Callable[[BackboneAdapter], BackboneAdapter]] = {
    "torchao, int8 weights": _by_torchao(Int8WeightOnlyConfig()),
    "torchao, int8 weights and activations": _by_torchao(Int8DynamicActivationInt8WeightConfig()),
    "torch, quantize_dynamic": _by_torch,
}


def count_bytes(adapter: nn.Module) -> int:
    """Return the size of a model's checkpoint."""
    file = io.BytesIO()
    torch.save(adapter.state_dict(), file)
    return file.getbuffer().nbytes


def difference(maps: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative difference of maps ``(B, C_i, h_i, w_i)``, by their norms."""
    return max(float((one - other).norm() / other.norm()) for one, other in zip(maps, expected, strict=True))


@torch.no_grad()
def measure_model(model_name: str, size: tuple[int, int], repeats: int) -> list[list[str]]:
    """Measure a model in all ways; return the rows of the table."""
    torch.manual_seed(0)
    plain = TimmAdapter(model_name).eval()
    image = torch.randn(1, 3, *size)
    expected, whole = plain(image), count_bytes(plain)
    variants = {"fp32": plain, **{name: quantise(copy.deepcopy(plain)) for name, quantise in WAYS.items()}}
    medians = seconds_in_turns({name: partial(adapter, image) for name, adapter in variants.items()}, repeats)
    return [
        [
            model_name,
            name,
            f"{100 * difference(variants[name](image), expected):.2g}%",
            f"{medians['fp32'] / medians[name]:.2f}",
            f"{count_bytes(variants[name]) / whole:.2f}",
        ]
        for name in WAYS
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=list(MODELS), metavar="NAME", help="timm models (default: %(default)s)")
    add("--size", nargs=2, type=int, default=SIZE, metavar=("H", "W"), help="of the image (default: %(default)s)")
    add("--repeats", type=int, default=5, help="timed passes of each, in turns (default: %(default)s)")
    add("--out", default="work_dirs/quantisation", help="folder of the table (default: %(default)s)")
    options = parser.parse_args(arguments)
    rows = [row for name in tqdm(options.models) for row in measure_model(name, tuple(options.size), options.repeats)]
    headings = ("model", "quantised by", "maps off by", "times faster", "size")
    table = markdown_table(headings, rows, headings[2:]) + "\n"
    write_text(Path(options.out, "quantisation.md"), table)
    print(table)
    return 0
