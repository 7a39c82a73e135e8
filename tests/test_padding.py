"""Images are padded right and bottom, and maps are cropped to the cells that the image reaches."""

import pytest
import torch
from zoo import image

from adapters.padding import crop_to_stride, pad_to_multiple


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (32, 32)), ((33, 64), (64, 64)), ((40, 31), (64, 32))], ids=str)
def test_pads_are_zeros_right_and_bottom(size: tuple[int, int], padded: tuple[int, int]) -> None:
    x = image(*size)
    expected = torch.zeros(*x.shape[:2], *padded)
    expected[..., : size[0], : size[1]] = x
    assert torch.equal(pad_to_multiple(x, 32), expected)


def test_an_image_that_fits_is_not_copied() -> None:
    x = image(32, 64)
    assert pad_to_multiple(x, 32) is x


@pytest.mark.parametrize("size", [(32, 64), (33, 50)], ids=str)
def test_margins_come_on_top_of_the_multiple(size: tuple[int, int]) -> None:
    """Before at the left and the top, after at the right and the bottom."""
    x = image(*size)
    without = pad_to_multiple(x, 32)
    expected = torch.zeros(*x.shape[:2], *(side + 8 for side in without.shape[-2:]))
    expected[..., 3:-5, 3:-5] = without
    assert torch.equal(pad_to_multiple(x, 32, margins=(3, 5)), expected)


@pytest.mark.parametrize(("size", "cells"), [((1, 1), (1, 1)), ((64, 33), (8, 5)), ((57, 64), (8, 8))], ids=str)
def test_a_map_keeps_the_cells_that_the_image_reaches(size: tuple[int, int], cells: tuple[int, int]) -> None:
    feature_map = image(8, 8)
    out = crop_to_stride(feature_map, size, 8, torch.float32)
    assert torch.equal(out, feature_map[..., : cells[0], : cells[1]])


def test_a_map_is_contiguous_and_of_the_dtype_of_the_image() -> None:
    """Also where nothing is cropped, and autocast left a view in another dtype."""
    view = image(8, 8).bfloat16().permute(0, 1, 3, 2)
    out = crop_to_stride(view, (64, 64), 8, torch.float32)
    assert out.is_contiguous()
    assert out.dtype == torch.float32
    assert torch.equal(out, view.float())
