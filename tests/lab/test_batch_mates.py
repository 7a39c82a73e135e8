"""The measurement of what batch mates change, and the table of the page that it writes."""

import pytest
import torch
from lab import batch_mates

from adapters.files import read_json

SIZES = ((64, 96), (40, 50))


def test_a_difference_is_of_an_images_own_cells_and_relative() -> None:
    alone = [[torch.full((1, 2, 3, 3), 4.0)], [torch.full((1, 2, 2, 1), -8.0)]]
    together = torch.zeros(2, 2, 3, 4)
    together[0, :, :3, :3], together[1, :, :2, :1] = 4.0, -8.0
    assert batch_mates.difference([together], alone) == 0
    together[1, :, 2:] = 100
    assert batch_mates.difference([together], alone) == 0
    together[1, 1, 1, 0] = -6
    assert batch_mates.difference([together], alone) == 0.25


def test_padding_changes_a_model_and_sizes_do_not() -> None:
    cells = dict(batch_mates.measure("test_vit", SIZES))
    assert float(cells["padded"]) > 1e-3
    assert float(cells["exact"]) < 1e-4
    assert set(cells) == {"padded", "exact"}


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="no family vit works as a backbone; these do: beit, "):
        batch_mates.main(["--families", "vit"])


def test_the_page_has_the_table_of_the_records() -> None:
    records = read_json(batch_mates.RECORDS)
    page = batch_mates.PAGE.read_text()
    assert page.endswith(batch_mates.HEADING + "\n" + batch_mates.render(records))
    assert len(records["families"]) == 97
