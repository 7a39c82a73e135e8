"""Crops of photographs, to be told apart by the photograph that they are cut from."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab.shapes.photographs import load_photograph

#: All photographs of scikit-image's wheel that fill their frame; one class each.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
SPLITS = ("train", "test")

#: A crop's side, as a share of the shorter side of half a photograph; then every crop is scaled to one size.
SHARES = (0.3, 0.8)
#: Ranges of a crop's own mean and standard deviation, of 0 to 255.
MEANS, DEVIATIONS = (90.0, 165.0), (30.0, 60.0)


@dataclass(frozen=True)
class Crops:
    """Crops and the places of their photographs in ``PHOTOGRAPHS``.

    Attributes:
        images: ``(N, side, side)``, bytes.
        labels: ``(N,)``.
    """

    images: Tensor
    labels: Tensor


def cut_crops(split: str, count: int, side: int, seed: int = 0) -> Crops:
    """Cut crops of every photograph: those to train on from its left half, those to test on from its right half.

    They are grey, of any scale and perhaps mirrored, and each has a light and a contrast of its own, so that neither
    colour nor brightness tells where a crop comes from.

    Args:
        split: of ``SPLITS``.
        count: crops of each photograph.
        side: pixels of a crop.
        seed: of the places, scales and tones.
    """
    images, labels = [], []
    for label, name in enumerate(PHOTOGRAPHS):
        photograph = Image.fromarray(load_photograph(name)).convert("L")
        middle = photograph.width // 2
        left, right = (0, middle) if split == SPLITS[0] else (photograph.width - middle, photograph.width)
        half = photograph.crop((left, 0, right, photograph.height))
        rng = np.random.default_rng([seed, SPLITS.index(split), label])
        images += [_cut(half, side, rng) for _ in range(count)]
        labels += [label] * count
    return Crops(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def _cut(half: Image.Image, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    extent = rng.uniform(*SHARES) * min(half.size)
    left, top = rng.uniform(0, half.width - extent), rng.uniform(0, half.height - extent)
    box = (left, top, left + extent, top + extent)
    pixels = np.asarray(half.resize((side, side), Image.Resampling.BICUBIC, box), dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    # Where there is hardly any contrast, noise is not blown up to that of the others.
    normal = (pixels - pixels.mean()) / (pixels.std() + 4)
    return np.clip(normal * rng.uniform(*DEVIATIONS) + rng.uniform(*MEANS), 0, 255).astype(np.uint8)
