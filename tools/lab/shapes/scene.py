"""One image: shapes placed over a background, with the visible part of each."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lab.shapes.outlines import CLASSES, Plane, draw_outline
from lab.shapes.photographs import draw_background
from lab.shapes.textures import draw_texture

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

OVERSAMPLING = 3
"""Samples per pixel and direction that decide how much of a pixel an outline covers."""
MIN_VISIBLE_SHARE = 0.7
"""The area of the complete outline counts, also beyond the border of the image: no shape is hidden further."""
MIN_VISIBLE_PIXELS = 60
SMALLEST_SIZE, LARGEST_SHARE = 56.0, 0.8
"""Longest extent of a shape: at least so many pixels, at most that share of the image's shorter side."""
FEWEST, MOST, PIXELS_PER_SHAPE = 1, 6, 6000
"""Shapes in an image: between these two, and on average no denser than that."""
PLACEMENTS_PER_SHAPE = 12
MOST_SMALL, PIXELS_PER_SMALL_SHAPE = 16, 1500
"""Shapes in an image where their sides are given, and no denser than that. None of these is hidden."""

Sides = tuple[int, int]


@dataclass
class Instance:
    """A shape in an image.

    Attributes:
        label: index into ``CLASSES``.
        mask: (H, W), its visible pixels.
        outline_area: pixels of the outline, hidden ones and those beyond the border included.
    """

    label: int
    mask: Mask
    outline_area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the visible pixels."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


@dataclass
class Scene:
    """An image (H, W, 3) and its instances, the lowest first."""

    image: Image
    instances: list[Instance] = field(default_factory=list)

    def label_map(self) -> NDArray[np.uint8]:
        """Return ``(H, W)``: 0 where there is background, else the instance's label plus one."""
        labels = np.zeros(self.image.shape[:2], dtype=np.uint8)
        for instance in self.instances:
            labels[instance.mask] = instance.label + 1
        return labels


def draw_scene(split: str, size_range: Sides, rng: np.random.Generator, object_sides: Sides | None = None) -> Scene:
    """Draw an image whose height and width lie in ``size_range``, and its instances.

    Args:
        split: ``'train'`` or ``'val'``, which have photographs of their own.
        size_range: least and greatest side of the image in pixels.
        rng: the source of chance.
        object_sides: least and greatest side of the instances' boxes in pixels; None for large ones.
    """
    height, width = (int(side) for side in rng.integers(size_range[0], size_range[1] + 1, 2))
    canvas = draw_background(split, height, width, rng)
    instances: list[Instance] = []
    most, pixels = (MOST, PIXELS_PER_SHAPE) if object_sides is None else (MOST_SMALL, PIXELS_PER_SMALL_SHAPE)
    upper = min(max(height * width // pixels, FEWEST + 1), most)
    wanted = int(rng.integers(FEWEST, upper + 1))
    for _ in range(wanted * PLACEMENTS_PER_SHAPE):
        _place(canvas, instances, rng, object_sides)
        if len(instances) == wanted:
            break
    canvas += rng.normal(0, rng.uniform(0, 6), canvas.shape)
    return Scene(np.clip(np.round(canvas), 0, 255).astype(np.uint8), instances)


def _place(
    canvas: NDArray[np.float64], instances: list[Instance], rng: np.random.Generator, object_sides: Sides | None
) -> None:
    """Paint one more shape over the others, unless too little of it or of one of them would stay visible."""
    height, width = canvas.shape[:2]
    label = int(rng.integers(len(CLASSES)))
    least, largest = object_sides or (SMALLEST_SIZE, max(SMALLEST_SIZE, LARGEST_SHARE * min(height, width)))
    radius = float(np.exp(rng.uniform(np.log(least), np.log(largest)))) / 2
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    outline = draw_outline(CLASSES[label], rng)
    turn, texture_turn = rng.uniform(0, 2 * np.pi, 2)

    # The window of pixels that holds the outline; it may reach beyond the image.
    top, left = int(np.floor(centre_y - radius)), int(np.floor(centre_x - radius))
    side = int(np.ceil(2 * radius)) + 1
    fine: Plane = (np.arange(side * OVERSAMPLING) + 0.5) / OVERSAMPLING
    x, y = _rotated((left + fine - centre_x) / radius, (top + fine - centre_y) / radius, turn)
    cover = outline(x, y).reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))
    area = int((cover >= 0.5).sum())

    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    cover = cover[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = cover >= 0.5
    if object_sides is None:
        visible = all(
            _is_visible(seen, whole)
            for seen, whole in ((mask, area), *((below.mask & ~mask, below.outline_area) for below in instances))
        )
    else:
        apart = not any((below.mask & mask).any() for below in instances)
        visible = apart and mask.sum() == area > 0 and _has_sides(Instance(label, mask, area), object_sides)
    if not visible:
        return

    texture, opacity = draw_texture(canvas[mask].mean(0), label / len(CLASSES), rng)
    across: Plane = (np.arange(columns.start, columns.stop) + 0.5 - centre_x) / radius
    down: Plane = (np.arange(rows.start, rows.stop) + 0.5 - centre_y) / radius
    paint = texture(*_rotated(across, down, texture_turn))
    window = canvas[rows, columns]
    window += (paint - window) * (cover * opacity)[..., None]
    for below in instances:
        below.mask &= ~mask
    instances.append(Instance(label, mask, area))


def _is_visible(mask: Mask, outline_area: int) -> bool:
    return bool(mask.sum() >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * outline_area))


def _has_sides(instance: Instance, sides: Sides) -> bool:
    return all(sides[0] <= side <= sides[1] for side in instance.box[2:])


def _rotated(x: Plane, y: Plane, turn: float) -> tuple[Plane, Plane]:
    """Return the grid of the axes ``x`` ``(W,)`` and ``y`` ``(H,)``, seen from axes that are turned: two ``(H, W)``."""
    cosine, sine = np.cos(turn), np.sin(turn)
    return x[None, :] * cosine + y[:, None] * sine, y[:, None] * cosine - x[None, :] * sine
