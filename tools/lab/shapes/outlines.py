"""The outlines of the classes, as functions of the plane.

An outline fits the circle of radius 1. It tells for any point whether it is inside, so that the caller may sample it as
finely as wanted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
Inside = Callable[[Plane, Plane], NDArray[np.bool_]]


def _radial(points: int, inner: float) -> Inside:
    """A star with notches at radius ``inner``, a regular polygon where they are flat."""
    sector = np.pi / points
    notch_x, notch_y = inner * np.cos(sector), inner * np.sin(sector)

    def inside(x: Plane, y: Plane) -> NDArray[np.bool_]:
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        # Every half sector is folded onto the first, where the edge runs from (1, 0) to the notch.
        folded = np.abs((angle + sector) % (2 * sector) - sector)
        px, py = radius * np.cos(folded), radius * np.sin(folded)
        return (notch_x - 1) * py - notch_y * (px - 1) >= 0

    return inside


def _ellipse(rng: np.random.Generator) -> Inside:
    flatness = rng.uniform(0.5, 1.0)
    return lambda x, y: x**2 + (y / flatness) ** 2 <= 1


def _rectangle(rng: np.random.Generator) -> Inside:
    # By its diagonal, so that the corners stay in the unit circle.
    half = np.arctan(rng.uniform(0.4, 1.0))
    width, height = np.cos(half), np.sin(half)
    return lambda x, y: (np.abs(x) <= width) & (np.abs(y) <= height)


def _triangle(rng: np.random.Generator) -> Inside:
    inside, squeeze = _radial(3, 0.5), rng.uniform(0.75, 1.0)
    return lambda x, y: inside(x, y / squeeze)


def _star(rng: np.random.Generator) -> Inside:
    return _radial(5, rng.uniform(0.38, 0.5))


def _ring(rng: np.random.Generator) -> Inside:
    flatness, hole = rng.uniform(0.7, 1.0), rng.uniform(0.45, 0.65)

    def inside(x: Plane, y: Plane) -> NDArray[np.bool_]:
        squared = x**2 + (y / flatness) ** 2
        return (squared <= 1) & (squared >= hole**2)

    return inside


def _cross(rng: np.random.Generator) -> Inside:
    half = np.arcsin(rng.uniform(0.22, 0.38))
    reach, arm = np.cos(half), np.sin(half)

    def inside(x: Plane, y: Plane) -> NDArray[np.bool_]:
        across, along = np.abs(x), np.abs(y)
        return (np.minimum(across, along) <= arm) & (np.maximum(across, along) <= reach)

    return inside


_OUTLINES: dict[str, Callable[[np.random.Generator], Inside]] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}

CLASSES: tuple[str, ...] = tuple(_OUTLINES)
"""Names of the classes; the COCO category id of a class is its place here plus one."""


def draw_outline(name: str, rng: np.random.Generator) -> Inside:
    """Draw an outline of class ``name`` with proportions from ``rng``."""
    return _OUTLINES[name](rng)
