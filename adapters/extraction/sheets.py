"""A sheet: an image as the model got it, and beside it each level as a map of colours, at one scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Pixels of a panel's longer side, and between panels.
PANEL, GAP, CAPTION = 288, 8, 20
INK, PAPER = (60, 60, 60), (255, 255, 255)


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet.

    Attributes:
        caption: below it.
        picture: of the fed size.
    """

    caption: str
    picture: Image.Image


def level_picture(colours: NDArray[np.uint8], stride: int, size: tuple[int, int]) -> Image.Image:
    """A map of colours ``(h, w, 3)`` as large as the fed image: every cell a square of ``stride`` pixels."""
    height, width = size
    cells = Image.fromarray(colours)
    whole = cells.resize((cells.width * stride, cells.height * stride), Image.Resampling.NEAREST)
    return whole.crop((0, 0, width, height))


def draw_sheet(rows: Sequence[tuple[str, Sequence[Panel]]]) -> Image.Image:
    """Rows of panels, each row with a title above it.

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
        for place, panel in enumerate(panels):
            left = GAP + place * column
            # Enlarging keeps the cells' edges; shrinking averages.
            filtering = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
            sheet.paste(panel.picture.resize((width, height), filtering), (left, top + CAPTION))
            draw.text((left, top + CAPTION + height + 2), panel.caption, INK, font)
    return sheet
