"""What a shape is filled with: a colour for every point of its plane, and one opacity."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from adapters.shapes.outlines import Plane

Colour = NDArray[np.float64]
Texture = Callable[[Plane, Plane], NDArray[np.float64]]

MIN_CONTRAST = 70.0
"""Least distance, in RGB of 0 to 255, between a shape's main colour and what it is painted over."""


def _mix(first: Colour, second: Colour, share: Plane) -> NDArray[np.float64]:
    return first + (second - first) * share[..., None]


def _flat(first: Colour, _second: Colour, _rng: np.random.Generator) -> Texture:
    return lambda x, _y: np.broadcast_to(first, (*x.shape, 3))


def _gradient(first: Colour, second: Colour, _rng: np.random.Generator) -> Texture:
    return lambda x, _y: _mix(first, second, np.clip((x + 1) / 2, 0, 1))


def _stripes(first: Colour, second: Colour, rng: np.random.Generator) -> Texture:
    number, phase = rng.uniform(2, 5), rng.uniform(0, 1)
    return lambda x, _y: _mix(first, second, ((x * number + phase) % 1 < 0.5).astype(float))


def _dots(first: Colour, second: Colour, rng: np.random.Generator) -> Texture:
    number, radius = rng.uniform(2, 4), rng.uniform(0.2, 0.35)
    return lambda x, y: _mix(
        first, second, (np.hypot(x * number % 1 - 0.5, y * number % 1 - 0.5) < radius).astype(float)
    )


def _noise(first: Colour, second: Colour, rng: np.random.Generator) -> Texture:
    strength = rng.uniform(0.3, 0.9)
    return lambda x, _y: _mix(first, second, strength * rng.random(x.shape))


TEXTURES = (_flat, _gradient, _stripes, _dots, _noise)


def draw_colour(away_from: Colour, rng: np.random.Generator) -> Colour:
    """A colour (3,) at least ``MIN_CONTRAST`` away from another.

    The colours that far away always fill most of the RGB cube, so this ends.
    """
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - away_from) >= MIN_CONTRAST:
            return colour


def draw_texture(background: Colour, rng: np.random.Generator) -> tuple[Texture, float]:
    """A texture that stands out from the mean colour (3,) of the background, and its opacity in (0, 1]."""
    first = draw_colour(background, rng)
    second = draw_colour(first, rng)
    texture = TEXTURES[rng.integers(len(TEXTURES))](first, second, rng)
    opacity = 1.0 if rng.random() < 0.7 else rng.uniform(0.7, 0.95)
    return texture, opacity
