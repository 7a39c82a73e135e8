"""The fillings of shapes: a colour for every point of a shape's plane, and one opacity."""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lab.shapes.outlines import Plane

Colour = NDArray[np.float64]
Texture = Callable[[Plane, Plane], NDArray[np.float64]]

MIN_CONTRAST = 70.0
"""Least distance, in RGB of 0 to 255, between a shape's main colour and what it is painted over."""
HUE_SPREAD = 0.06
"""A class's main colours lie so far, in turns of the colour wheel, to either side of the class's own hue.

Like the things in photographs, classes differ in colour by tendency: textures mix two of them, bright or dark, strong
or pale, and the backgrounds hold every hue, so shape decides as well. With colours of no class, minutes of
training on two cores do not suffice.
"""


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


def draw_class_colour(hue: float, away_from: Colour, rng: np.random.Generator) -> Colour:
    """Draw a colour ``(3,)`` of a class's own range of hues, at least ``MIN_CONTRAST`` away from another.

    The range is wide, and saturation and brightness are free, so at least one such colour is far from any other.
    """
    while True:
        turn = hue + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
        colour = 255 * np.array(colorsys.hsv_to_rgb(turn % 1.0, rng.uniform(0.5, 1), rng.uniform(0.3, 1)))
        if np.linalg.norm(colour - away_from) >= MIN_CONTRAST:
            return colour


def draw_texture(background: Colour, hue: float, rng: np.random.Generator) -> tuple[Texture, float]:
    """Draw a texture of a class's hue that stands out from the background, and its opacity in (0, 1].

    Args:
        background: mean colour ``(3,)`` of the pixels that are painted over.
        hue: the middle of the class's hues, in turns.
        rng: the source of chance.
    """
    first = draw_class_colour(hue, background, rng)
    second = draw_class_colour(hue, first, rng)
    texture = TEXTURES[rng.integers(len(TEXTURES))](first, second, rng)
    opacity = 1.0 if rng.random() < 0.7 else rng.uniform(0.7, 0.95)
    return texture, opacity
