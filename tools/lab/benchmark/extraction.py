"""Measure what extraction adds to the bare model: time of a complete run over time of the forward passes alone.

    python tools/benchmark_extraction.py --backbone twins_svt_small --images 96 --size 384 512

Draws images from scikit-image's photographs, loads all batches into memory for the bare passes, and lets bare passes
and complete runs (headers, reading, computing, writing, manifest) take turns, so that whatever else the machine does
hits both. Exits with 1 if the ratio of the medians is above --limit.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from adapters.extraction.batches import Batches
from adapters.extraction.building import RANDOM, build_extractor
from adapters.extraction.inputs import find_images
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.planning import make_plan, read_headers
from adapters.extraction.run import run_extraction
from lab.shapes.photographs import PHOTOGRAPHS, load_photograph


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw images, measure, print the times."""
    args = parse_arguments(arguments)
    height, width = args.size
    options = ExtractionOptions(batch_size=args.batch_size, device=args.device)
    extractor = build_extractor(args.backbone, options, RANDOM).prepare()
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        draw_images(Path(folder, "images"), args.images, (height, width))
        paths = find_images([Path(folder, "images")])
        headers = read_headers(paths, extractor.reader, 0)
        plan = make_plan(paths, headers, extractor.preprocessing, extractor.pad_multiple, options)
        batches = Batches(plan.batches, extractor.preprocessing, extractor.reader)
        loaded = [batches[number] for number in tqdm(range(len(batches)), desc="loading", disable=None)]
        with torch.inference_mode():
            fed = [extractor.preprocessing.normalise(one.pixels.to(args.device), one.sizes) for one in loaded]
        forward = torch.inference_mode()(extractor.adapter)
        bare, complete = [], []
        out = Path(folder, "out")
        forward(fed[0])
        for _ in tqdm(range(args.repeats), desc="measuring", disable=None):
            start = time.perf_counter()
            for pixels in fed:
                forward(pixels)
            if args.device != "cpu":
                torch.cuda.synchronize()
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            run_extraction(paths, extractor, out, args.workers, progress=False)
            complete.append(time.perf_counter() - start)
            written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            shutil.rmtree(out)
    ratio = statistics.median(complete) / statistics.median(bare)
    images = f"{args.images} images of {height} x {width}"
    print(f"{args.backbone}, {images}, batches of {args.batch_size}, {torch.get_num_threads()} threads")
    for name, times in (("forward alone", bare), ("extraction", complete)):
        print(f"  {name:14} {statistics.median(times):7.2f} s  ({', '.join(f'{t:.2f}' for t in times)})")
    print(f"  {written / 1e6:.0f} MB written; {ratio:.3f} times the forward passes (limit {args.limit:g})")
    return int(ratio > args.limit)


def draw_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Draw JPEG images of one size from photographs."""
    folder.mkdir()
    photographs = [Image.fromarray(load_photograph(name)) for names in PHOTOGRAPHS.values() for name in names]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        photograph.resize((size[1], size[0])).rotate(number).save(folder / f"{number:05d}.jpg", quality=92)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", default="twins_svt_small", help="a timm model, of random weights (default: %(default)s)")
    add("--images", type=int, default=128, help="default: %(default)s")
    add("--size", type=int, nargs=2, default=(384, 512), metavar=("H", "W"), help="pixels (default: 384 512)")
    add("--batch-size", type=int, default=8, help="default: %(default)s")
    add("--workers", type=int, default=2, help="processes that load (default: %(default)s)")
    add("--repeats", type=int, default=3, help="default: %(default)s")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--work-dir", type=Path, help="folder for images and results, removed afterwards (default: the system's)")
    add("--limit", type=float, default=1.10, help="ratio above which the exit code is 1 (default: %(default)s)")
    return parser.parse_args(arguments)
