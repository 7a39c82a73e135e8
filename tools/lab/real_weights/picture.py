"""Draw photographs and the levels of the pretrained model: the README's first picture.

Each level is coloured by its three principal components over all photographs, so that one colour of a column means
one thing. Below a photograph stands what the model takes it for.

    python tools/draw_features.py --out docs/features.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import adapters
from adapters import ExtractionOptions
from adapters.extraction.sheets import INK, PAPER, Basis, level_picture
from adapters.files import atomic_write
from lab.real_weights.package import MODEL, find_checkpoint
from lab.shapes.photographs import load_photograph

#: All of one shape, three to two.
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg")
FED = (768, 1152)
#: Pixels of a panel, between panels, and of the lines above and below.
PANEL, GAP, LINE = (176, 264), 8, 28


def main(arguments: Sequence[str] | None = None) -> int:
    """Extract, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/features.png"), help="the PNG (default: %(default)s)")
    args = parser.parse_args(arguments)
    picture = draw([load_photograph(name) for name in PHOTOGRAPHS], str(find_checkpoint()))
    with atomic_write(args.out) as partial:
        picture.save(partial, "PNG", optimize=True)
    print(f"written: {args.out}")
    return 0


def draw(photographs: Sequence[np.ndarray], checkpoint: str, fed: tuple[int, int] = FED) -> Image.Image:
    """Draw a row for each photograph ``(H, W, 3)``: itself, and each level of the model with a checkpoint's weights.

    Args:
        photographs: bytes.
        checkpoint: of ``MODEL``.
        fed: the size that the model takes a photograph at.
    """
    maps = list(adapters.extract(list(photographs), MODEL, checkpoint, ExtractionOptions(size=fed)))
    seen = adapters.extract(list(photographs), MODEL, checkpoint, ExtractionOptions(("top5",), size="native"))
    best = [found.top5[0] for found in seen if found.top5]
    levels = maps[0].levels
    bases = [Basis.fit(found.maps[place] for found in maps) for place in range(len(levels))]

    height, width = PANEL
    row, column = height + LINE, width + GAP
    sheet = Image.new("RGB", ((1 + len(levels)) * column + GAP, LINE + len(photographs) * row), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for place, level in enumerate(levels):
        heading = f"stride {level.stride}, {level.channels} channels"
        pen.text((GAP + (1 + place) * column, LINE // 2), heading, INK, font, anchor="lm")
    pen.text((GAP, LINE // 2), "EfficientNet-Lite0, ImageNet", INK, font, anchor="lm")
    for line, (photograph, found, (_, name, probability)) in enumerate(zip(photographs, maps, best, strict=True)):
        coloured = (basis.colours(one) for basis, one in zip(bases, found.maps, strict=True))
        cells = [level_picture(one, level.stride, fed) for one, level in zip(coloured, levels, strict=True)]
        top = LINE + line * row
        for place, picture in enumerate([Image.fromarray(photograph), *cells]):
            filtering = Image.Resampling.LANCZOS if place == 0 else Image.Resampling.BOX
            sheet.paste(picture.resize((width, height), filtering), (GAP + place * column, top))
        text = f"{str(name).split(',')[0]}, {probability:.0%}"
        pen.text((GAP, top + height + LINE // 2 - 2), text, INK, font, anchor="lm")
    return sheet
