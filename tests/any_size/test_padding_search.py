"""The padding that gives a trunk true maps: multiples, margins, and the reason where there is none."""

import pytest
import timm
import torch
import torch.nn.functional as F
from references import relative_error
from torch import nn
from zoo import ZOO, image

from adapters.any_size.padding_search import Geometry, NoGeometryError, find_geometry
from adapters.levels import Level


def toy(kernel: int, stride: int, padding: int):
    """Maps of one convolution with a stride, and of another after it."""
    first = nn.Conv2d(1, 2, kernel, stride, padding)
    second = nn.Conv2d(2, 3, kernel, stride, padding)

    def run(size):
        one = first(torch.zeros(1, 1, *size))
        return [one, second(one)]

    return run, [Level(2, stride), Level(3, stride * stride)]


def test_padded_convolutions_need_no_margins() -> None:
    run, levels = toy(3, 2, 1)
    assert find_geometry(run, levels, 4, (32, 32)) == Geometry(4)


def test_unpadded_convolutions_get_margins_that_keep_cells_in_place() -> None:
    """The middle of cell 0 is within half a cell of the middle of its pixels, and no cell is missing."""
    run, levels = toy(5, 2, 0)
    geometry = find_geometry(run, levels, 4, (32, 32))
    for height, width in ((4, 4), (8, 20), (40, 12)):
        maps = run((height + geometry.before + geometry.after, width + geometry.before + geometry.after))
        for feature_map, level, skip in zip(maps, levels, geometry.skips, strict=True):
            assert feature_map.shape[-2] - skip >= height // level.stride
            assert feature_map.shape[-1] - skip >= width // level.stride
    for level, skip, span in zip(levels, geometry.skips, (5, 13), strict=True):
        middle = (span - 1) / 2 + level.stride * skip - geometry.before
        assert abs(middle - (level.stride - 1) / 2) <= level.stride / 2


def test_what_fails_everywhere_says_why() -> None:
    def run(size):
        raise RuntimeError(f"no {size}\nand more")

    with pytest.raises(NoGeometryError, match=r"at 8 x 12 it fails there with RuntimeError: no \(8, 12\)$"):
        find_geometry(run, [Level(2, 4)], 4, (32, 32))


def test_the_size_that_fails_is_named() -> None:
    def run(size):
        """No map of squares."""
        return [torch.empty(1, 3 if size[0] == size[1] else 2, *(side // 4 for side in size))]

    with pytest.raises(NoGeometryError, match=r"at 4 x 4 map 0 is \(1, 3, 1, 1\)"):
        find_geometry(run, [Level(2, 4)], 4, (32, 32))


@torch.no_grad()
def test_a_model_with_margins_equals_timm_on_the_padded_image() -> None:
    spec = next(spec for spec in ZOO if spec.name == "pit")
    adapter = spec.build()
    before, after = adapter.pad_margins
    assert (before, after) != (0, 0)
    padded = 192 + before + after
    model = timm.create_model("pit_ti_224", img_size=padded, **spec.options["trunk"])
    state = adapter.trunk.state_dict()
    side = model.pos_embed.shape[-1]
    state["pos_embed"] = F.interpolate(state["pos_embed"], size=(side, side), mode="bicubic", antialias=True)
    model.load_state_dict(state, strict=False)
    x = image(192, 192)
    expected = model.eval().forward_intermediates(F.pad(x, (before, after, before, after)), intermediates_only=True)
    skips = adapter.geometry.skips or (0, 0, 0)
    for one, other, skip in zip(adapter(x), expected, skips, strict=True):
        assert relative_error(one, other[..., skip:, skip:][..., : one.shape[-2], : one.shape[-1]]) < 1e-5
