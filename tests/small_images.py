"""Images and a small model for the tests of extraction."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.extraction.building import build_extractor
from adapters.extraction.extractor import Extractor
from adapters.extraction.inputs import find_images
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.run import Summary, run_extraction

#: Images of the fixture ``images``, beside one broken file.
COUNT = 24

TINY = {
    "model_name": "twins_svt_small",
    "trunk": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4]},
}


def make_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Write PNG images of a few sizes, two of the same stem, and one file that is no image."""
    rng = np.random.default_rng(seed)
    sizes = [(40, 60), (64, 64), (50, 33), (90, 120)]
    (folder / "below").mkdir()
    for number in range(count):
        name = f"below/{number - 1:03d}.png" if number == count - 1 else f"{number:03d}.png"
        picture(*sizes[number % len(sizes)], rng).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


def picture(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """Draw a smooth random image."""
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def tiny_extractor(seed: int = 0, **options: Any) -> Extractor:
    """Build a model of random weights, the same for the same seed."""
    fields = {"batch_size": 4, "threads": 1, **options}
    return build_extractor(TINY, ExtractionOptions(**fields), "random", seed)


def read_all(out: Path) -> dict[str, bytes]:
    """Read all files of a run's folder but its lock."""
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def extract_tiny(images: Path, out: Path, engine: str = "local", workers: int = 0, **options: Any) -> Summary:
    """Extract a folder of images, or one image, with :func:`tiny_extractor`."""
    return run_extraction(find_images([images]), tiny_extractor(**options), out, workers, engine, progress=False)


def fill_disk_after(images: Path, out: Path, files: int, error: int = errno.ENOSPC) -> None:
    """Extract onto a disk that is full after ``files`` feature files."""
    rename, written = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if target.suffix == ".safetensors":
            if len(written) == files:
                raise OSError(error, os.strerror(error))
            written.append(target)
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(ValueError, match=r"could not be written: .*run the same command again"):
            extract_tiny(images, out)
