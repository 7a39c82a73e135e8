"""Sheets: an image as the model got it, and beside it each level as a map of colours, at one scale.

The three directions in which a level varies most become red, green and blue. The directions, and the scale of each,
are those of all images together (principal components of every cell), so that one colour means one thing throughout a
gallery.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

#: Standard deviations from the mean at which a colour channel saturates.
REACH = 2.5

#: Pixels of a panel's longer side, and between panels.
PANEL, GAP, CAPTION = 288, 8, 20
INK, PAPER = (60, 60, 60), (255, 255, 255)


@dataclass(frozen=True)
class Basis:
    """Principal components of a level over all images.

    Attributes:
        mean: ``(C,)``.
        components: ``(C, k)``, of unit length, ``k`` at most 3.
        spread: ``(k,)``, the standard deviation along each.
    """

    mean: Tensor
    components: Tensor
    spread: Tensor

    @classmethod
    def fit(cls, maps: Iterable[Tensor]) -> "Basis":
        """Fit the basis to all cells of ``maps``, each ``(C, h, w)``, which are iterated once."""
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for feature_map in maps:
            cells = feature_map.flatten(1).double()
            count += cells.shape[1]
            total = total + cells.sum(dim=1)
            products = products + cells @ cells.T
        assert count, "there is a map at least"
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - mean[:, None] * mean[None, :])
        components = vectors[:, -3:].flip(1)
        # A component's sign is arbitrary: let its largest entry be positive.
        largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
        components = components * torch.where(largest < 0, -1.0, 1.0)
        return cls(mean, components, variances[-3:].flip(0).clamp_min(0).sqrt())

    def colours(self, feature_map: Tensor) -> NDArray[np.uint8]:
        """Colour a map: ``(C, h, w)`` to ``(h, w, 3)``; a direction that does not vary is grey."""
        _, height, width = feature_map.shape
        cells = feature_map.flatten(1).T.double() - self.mean
        # Rounding leaves a little where nothing varies.
        floor = 1e-6 * self.mean.abs().max().clamp_min(1e-6)
        along = (cells @ self.components) / (REACH * self.spread.clamp_min(floor))
        pixels = torch.full((height * width, 3), 0.5, dtype=torch.float64)
        pixels[:, : along.shape[1]] += along.clamp(-1, 1) / 2
        return (pixels * 255).round().to(torch.uint8).view(height, width, 3).numpy()


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet, of the fed size, with a caption below it."""

    caption: str
    picture: Image.Image


def level_picture(colours: NDArray[np.uint8], stride: int, size: tuple[int, int]) -> Image.Image:
    """Draw a map of colours ``(h, w, 3)`` as large as the fed image: every cell a square of ``stride`` pixels."""
    height, width = size
    cells = Image.fromarray(colours)
    padded = cells.resize((cells.width * stride, cells.height * stride), Image.Resampling.NEAREST)
    return padded.crop((0, 0, width, height))


def draw_sheet(rows: Sequence[tuple[str, Sequence[Panel]]]) -> Image.Image:
    """Draw rows of panels, each row with a title above it.

    Args:
        rows: title and panels; all pictures of a sheet show the same image.
    """
    font = ImageFont.load_default(size=13)
    first = rows[0][1][0].picture
    scale = PANEL / max(first.size)
    columns = max(len(panels) for _, panels in rows)
    width, height = (max(round(side * scale), 1) for side in first.size)
    column, row = max(width, 150) + GAP, CAPTION + height + CAPTION + GAP
    sheet = Image.new("RGB", (GAP + columns * column, GAP + len(rows) * row), PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, (title, panels) in enumerate(rows):
        top = GAP + line * row
        draw.text((GAP, top), title, INK, font)
        for position, panel in enumerate(panels):
            left = GAP + position * column
            # Enlarging keeps the cells' edges; shrinking averages.
            filtering = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
            sheet.paste(panel.picture.resize((width, height), filtering), (left, top + CAPTION))
            draw.text((left, top + CAPTION + height + 2), panel.caption, INK, font)
    return sheet
