"""Time of an ONNX file of any size in onnxruntime beside that of its adapter in torch, taken in turns.

python tools/time_exports.py
python tools/time_exports.py --models convit_tiny --size 512 512
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from adapters import TimmAdapter
from adapters.describe.tables import markdown_table
from adapters.export.backbones import export_backbone
from adapters.export.reading import open_file
from adapters.export.verification import make_image
from adapters.files import write_text
from lab.benchmark.measure import seconds_in_turns
from lab.compare import relative_error
from lab.randomise import randomise

MODELS = (
    "twins_svt_small", "twins_pcpvt_small", "swinv2_cr_tiny_224", "vit_medium_patch16_rope_reg1_gap_256", "convit_tiny",
    "vit_small_patch16_dinov3", "resnet50",
)  # fmt: skip
#: The noise of a weight, as a share of what its fan-in bears.
NOISE = 0.5


def measure(model_name: str, size: tuple[int, int], repeats: int, threads: int) -> tuple[dict[str, float], float]:
    """Measure a model: seconds of a pass in torch and in onnxruntime, and the largest difference of their maps."""
    torch.manual_seed(0)
    adapter = randomise(TimmAdapter(model_name), fan_in_share=NOISE).eval().requires_grad_(False)
    image = make_image((1, *size), adapter.in_channels, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_backbone(adapter, path)
        file = open_file(path, threads)
    with torch.no_grad():
        array = image.numpy()
        found = [torch.from_numpy(feature_map) for feature_map in file(array).values()]
        errors = [relative_error(other, ours) for ours, other in zip(adapter(image), found, strict=True)]
        seconds = seconds_in_turns({"torch": partial(adapter, image), "onnxruntime": partial(file, array)}, repeats)
    return seconds, max(errors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, metavar="NAME", help="timm's (default: one of each family)")
    add("--size", nargs=2, type=int, default=(800, 1344), metavar=("H", "W"), help="of the image (default: 800 1344)")
    add("--repeats", type=int, default=5, help="timed passes of each, in turns (default: %(default)s)")
    add("--threads", type=int, default=2, help="of torch and of onnxruntime (default: %(default)s)")
    add("--out", type=Path, default=Path("work_dirs/time_exports"), help="folder of the table (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = []
    for name in tqdm(args.models, dynamic_ncols=True, disable=None):
        seconds, error = measure(name, tuple(args.size), args.repeats, args.threads)
        ratio = f"{seconds['onnxruntime'] / seconds['torch']:.2f}"
        rows.append([f"`{name}`", *(f"{1000 * taken:.0f} ms" for taken in seconds.values()), ratio, f"{error:.0e}"])
    headings = ("model", "torch", "onnxruntime", "time", "difference")
    table = markdown_table(headings, rows, headings[1:]) + "\n"
    write_text(args.out / "results.md", table)
    print(table)
    return 0
