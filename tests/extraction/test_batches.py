"""Batches: padded with zeros, the same from other processes, with the reason where an image is unreadable."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import picture, tiny_extractor

from adapters.extraction.batches import Batches, load_batches
from adapters.extraction.planning import make_plan


@pytest.mark.parametrize("workers", [0, 2])
def test_images_lie_at_the_upper_left_and_unreadable_ones_are_zero(tmp_path: Path, workers: int) -> None:
    sizes = [(30, 40), (20, 33), (25, 35), (64, 64)]
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        picture(*size, np.random.default_rng(0)).save(path)
    extractor = tiny_extractor(batch_size=3)
    plan = make_plan(paths, sizes, extractor.preprocessing, 32, extractor.options)
    paths[1].unlink()
    picture(5, 5, np.random.default_rng(0)).save(paths[2])
    first, second = load_batches(Batches(plan.batches, extractor.preprocessing, extractor.reader), workers)
    assert (first.number, first.sizes, first.count_pixels()) == (0, tuple(sizes[:3]), 3 * 32 * 64)
    assert first.problems == [None, "no such file", "the file has changed since the run was planned"]
    expected = torch.zeros(3, 3, 32, 64, dtype=torch.uint8)
    with Image.open(paths[0]) as image:
        expected[0, :, :30, :40] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(first.pixels, expected)
    assert (second.number, tuple(second.pixels.shape), second.problems) == (1, (1, 3, 64, 64), [None])
