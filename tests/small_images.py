"""Images and a small model for the tests of extraction."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.extraction.building import build_extractor
from adapters.extraction.extractor import Extractor
from adapters.extraction.options import ExtractionOptions

TINY = {
    "model_name": "twins_svt_small",
    "trunk": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4]},
}


def make_images(folder: Path, count: int, seed: int = 0) -> Path:
    """PNG images of a few sizes, two of the same stem, and one file that is none."""
    rng = np.random.default_rng(seed)
    sizes = [(40, 60), (64, 64), (50, 33), (90, 120)]
    (folder / "below").mkdir()
    for number in range(count):
        name = f"below/{number - 1:03d}.png" if number == count - 1 else f"{number:03d}.png"
        picture(*sizes[number % len(sizes)], rng).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


def picture(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """A smooth random image."""
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def tiny_extractor(seed: int = 0, **options: Any) -> Extractor:
    """A model of random weights, the same for the same seed."""
    fields = {"batch_size": 4, "threads": 1, **options}
    return build_extractor(TINY, ExtractionOptions(**fields), "random", seed)


def read_all(out: Path) -> dict[str, bytes]:
    """Every byte of a run's folder, its lock aside."""
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }
