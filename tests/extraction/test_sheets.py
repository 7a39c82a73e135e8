"""Colours of feature maps, and the sheets that show them."""

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.extraction.sheets import CAPTION, GAP, PANEL, Basis, Panel, draw_sheet, level_picture


def test_colours_are_the_principal_components_of_all_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 5.0, 0.1, 3.0, 2.0])[:, None, None]
    maps = [torch.randn(5, height, 6, generator=generator) * scales + 10 for height in (4, 9, 30)]
    cells = torch.cat([m.flatten(1) for m in maps], dim=1).T.double()
    centred = cells - cells.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    basis = Basis.fit(iter(maps))
    torch.testing.assert_close((basis.components * directions[:3].T).sum(0).abs(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(basis.spread, singular[:3] / len(cells) ** 0.5)
    assert (basis.components.gather(0, basis.components.abs().argmax(0, keepdim=True)) > 0).all()
    colours = basis.colours(maps[1])
    along = (maps[1].flatten(1).T.double() - basis.mean) @ basis.components / basis.spread / 2.5
    expected = ((along.clamp(-1, 1) / 2 + 0.5) * 255).round().view(9, 6, 3)
    assert np.array_equal(colours, expected.numpy().astype(np.uint8))


def test_one_scale_for_all_images() -> None:
    """The same features have the same colour in every image, whatever else is in it."""
    first, second = torch.randn(8, 4, 4), torch.randn(8, 5, 7) * 3
    second[:, 0, 0] = first[:, 2, 2]
    basis = Basis.fit([first, second])
    assert np.array_equal(basis.colours(first)[2, 2], basis.colours(second)[0, 0])


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_and_no_variance(channels: int) -> None:
    maps = [torch.full((channels, 3, 4), 7.0)]
    assert (Basis.fit(maps).colours(maps[0]) == 128).all()


def test_a_cell_covers_its_stride() -> None:
    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shown = np.asarray(level_picture(colours, 8, (13, 20)))
    assert shown.shape == (13, 20, 3)
    assert (shown[:8, 8:16] == colours[0, 1]).all()
    assert (shown[8:, 16:] == colours[1, 2]).all()


def test_a_sheet_holds_its_panels() -> None:
    red, blue = (Image.new("RGB", (64, 32), colour) for colour in ("red", "blue"))
    sheet = np.asarray(draw_sheet([("one", [Panel("a", red), Panel("b", blue)]), ("two", [Panel("c", blue)])]))
    height = PANEL // 2
    top = GAP + CAPTION
    assert (sheet[top : top + height, GAP : GAP + PANEL] == (255, 0, 0)).all()
    assert (sheet[top : top + height, GAP + PANEL + GAP : GAP + 2 * PANEL + GAP] == (0, 0, 255)).all()
    below = top + height + CAPTION + GAP + CAPTION
    assert (sheet[below : below + height, GAP : GAP + PANEL] == (0, 0, 255)).all()
