"""Backgrounds: photographs that lie inside scikit-image's wheel, one set for each split.

Read as files of the installed package, never through ``skimage.data``'s functions, which may download.
"""

from functools import lru_cache
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": ("astronaut.png", "coffee.png", "motorcycle_left.png", "brick.png", "gravel.png", "ihc.png"),
    "val": ("chelsea.png", "rocket.jpg", "camera.png", "grass.png"),
}


def photograph_folder() -> Path:
    """Find the folder where scikit-image keeps its data.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    spec = util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the shapes are drawn over photographs from scikit-image, which is not installed: "
            "`pip install scikit-image`, or run `make setup` in a clone."
        )
    return Path(spec.origin).parent / "data"


@lru_cache(maxsize=16)
def load_photograph(name: str) -> NDArray[np.uint8]:
    """Load a photograph of the wheel as RGB ``(H, W, 3)``.

    Raises:
        FileNotFoundError: this version of scikit-image does not bring it.
    """
    path = photograph_folder() / name
    if not path.is_file():
        raise FileNotFoundError(
            f"scikit-image's wheel holds no {name} ({path}): install the version that is pinned in "
            "requirements/constraints.txt."
        )
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def draw_background(split: str, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cut ``(height, width, 3)`` from a photograph of the split, 0 to 255, perhaps mirrored, relit and tinted.

    One pixel stands for one to two of the photograph's, fewer where the photograph is too small for that.
    """
    names = PHOTOGRAPHS[split]
    photograph = load_photograph(names[rng.integers(len(names))])
    largest = min(2.0, photograph.shape[0] / height, photograph.shape[1] / width)
    scale = rng.uniform(min(1.0, largest), largest)
    tall, wide = int(height * scale), int(width * scale)
    top = rng.integers(photograph.shape[0] - tall + 1)
    left = rng.integers(photograph.shape[1] - wide + 1)
    crop = Image.fromarray(photograph[top : top + tall, left : left + wide])
    pixels = np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR), dtype=float)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    light = rng.uniform(0.7, 1.2) * rng.uniform(0.85, 1.15, 3)
    return np.clip(pixels * light, 0, 255)
