"""Models that timm builds for one size, served at every size: positions, margins, memory of sizes, and refusals."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from lab.compare import relative_error
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import nn
from zoo import ZOO, image, randomise

import adapters
from adapters.any_size import sized_trunk
from adapters.any_size.padding_search import Geometry, NoGeometryError, find_geometry
from adapters.any_size.positions import resampling_of
from adapters.any_size.timm_exceptions import absolute_offsets, join_blocks, split_blocks
from adapters.levels import Level

SIZED = [spec for spec in ZOO if spec.name in ("beit", "levit", "nest", "hiera", "crossvit", "pit")]
sized = pytest.mark.parametrize("spec", SIZED, ids=str)


@pytest.mark.parametrize("spec", ZOO, ids=str)
def test_the_models_of_one_size_are_these(spec) -> None:
    assert (getattr(spec.build(), "sized_trunk", None) is not None) == (spec in SIZED)


@sized
@torch.no_grad()
def test_new_parameters_are_seen_at_once(spec) -> None:
    """In eval mode, at a size seen before: after a step, after loading, and after a change in place."""
    adapter, fresh = spec.build(), spec.build()
    x = image(64, 96)
    adapter(x)
    for parameter in adapter.parameters():
        parameter.mul_(1.1)
    fresh.load_state_dict(adapter.state_dict())
    for one, other in zip(adapter(x), fresh(x), strict=True):
        assert relative_error(one, other) < 1e-6


@sized
def test_a_step_at_one_size_is_seen_at_another(spec) -> None:
    """The positional tables are one parameter each, whatever sizes they are trained at."""
    adapter = spec.build().train()
    sizes = (64, 96), (96, 64)
    before = [adapter.eval()(image(*size))[-1].detach() for size in sizes]
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    adapter.train()(image(*sizes[0]))[-1].square().mean().backward()
    optimizer.step()
    after = [adapter.eval()(image(*size))[-1].detach() for size in sizes]
    fresh = spec.build()
    fresh.load_state_dict(adapter.state_dict())
    for old, new, size in zip(before, after, sizes, strict=True):
        assert not torch.equal(old, new)
        assert relative_error(new, fresh(image(*size))[-1].detach()) < 1e-6


@sized
def test_sizes_leave_no_trace(spec) -> None:
    """No key in the state dict, nothing that a copy or a pickle would carry, and no more sizes than are allowed."""
    adapter = spec.build()
    keys = set(adapter.state_dict())
    sizes = [(32 * side, 64) for side in range(2, 6)]
    with torch.no_grad():
        for size in sizes:
            adapter(image(*size))
    assert set(adapter.state_dict()) == keys
    twin = pickle.loads(pickle.dumps(copy.deepcopy(adapter)))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
        assert not torch.equal(twin(image(*sizes[0]))[-1], adapter(image(*sizes[0]))[-1])


@torch.no_grad()
def test_the_memory_of_sizes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sized_trunk, "MOST_SIZES", 2)
    adapter = next(spec for spec in SIZED if spec.name == "beit").build()
    expected = adapter(image(32, 48))[-1]
    for side in (64, 96, 128):
        adapter(image(side, 48))
        assert len(adapter.sized_trunk._changes) <= 2
        assert len(adapter.sized_trunk._views) <= 2
    assert torch.equal(adapter(image(32, 48))[-1], expected)


@torch.no_grad()
def test_a_known_size_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = next(spec for spec in SIZED if spec.name == "beit").build()
    adapter(image(64, 96))
    monkeypatch.setattr(timm, "create_model", None)
    adapter(image(64, 96))
    adapter(image(60, 90))  # padded to the same


@sized
def test_converted_norms_and_modes_reach_every_size(spec) -> None:
    """SyncBN conversion puts other modules in place, and freezing changes modes, after sizes have been seen."""
    adapter = spec.build()
    with torch.no_grad():
        adapter(image(64, 96))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(adapter).train()
    view = converted.sized_trunk.at(converted.trunk, _padded(converted, (64, 96)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in view.modules())
    assert all(module.training for module in view.modules())
    assert {id(p) for p in view.parameters()} <= {id(p) for p in converted.parameters()}


def _padded(adapter, size):
    return tuple(side + -side % adapter.pad_multiple + sum(adapter.pad_margins) for side in size)


def test_relative_bias_is_resized_as_beit_does() -> None:
    old, new = nn.Module(), nn.Module()
    old.window_size, new.window_size = (4, 4), (6, 9)
    for extra in (0, 3):
        table = torch.randn(49 + extra, 5)
        old.relative_position_bias_table = nn.Parameter(table)
        new.relative_position_bias_table = nn.Parameter(torch.empty(11 * 17 + extra, 5))
        resample = resampling_of("t", "relative_position_bias_table", old, new, (64, 64), (96, 144))
        expected = resize_rel_pos_bias_table(table, (6, 9), (11 * 17 + extra, 5))
        assert relative_error(resample(table), expected) < 1e-5


def test_absolute_positions_are_resampled_as_timm_does() -> None:
    old, new = nn.Module(), nn.Module()
    old.pos_embed, new.pos_embed = nn.Parameter(torch.randn(1, 17, 8)), nn.Parameter(torch.empty(1, 25, 8))
    resample = resampling_of("pos_embed", "pos_embed", old, new, (64, 64), (64, 96))
    expected = resample_abs_pos_embed(old.pos_embed, [4, 6], [4, 4], 1)
    assert torch.equal(resample(old.pos_embed), expected)
    resample(old.pos_embed).sum().backward()
    assert old.pos_embed.grad.abs().min() > 0


def test_axial_tables_are_resampled_linearly() -> None:
    old, new = nn.Module(), nn.Module()
    old.rel_pos_h, new.rel_pos_h = nn.Parameter(torch.randn(7, 3)), nn.Parameter(torch.empty(11, 3))
    actual = resampling_of("rel_pos_h", "rel_pos_h", old, new, (64, 64), (96, 96))(old.rel_pos_h)
    assert torch.allclose(actual, F.interpolate(old.rel_pos_h.t()[None], size=11, mode="linear")[0].t())


def test_blocks_of_an_image() -> None:
    """As timm's NesT does it for squares."""
    from timm.models.nest import blockify, deblockify

    x = torch.randn(2, 12, 12, 5)
    assert torch.equal(split_blocks(x, (3, 3)), blockify(x, 3))
    assert torch.equal(join_blocks(blockify(x, 3), (12, 12), (3, 3)), deblockify(blockify(x, 3), 3))
    x = torch.randn(2, 8, 12, 5)
    assert torch.equal(join_blocks(split_blocks(x, (2, 3)), (8, 12), (2, 3)), x)


def test_absolute_offsets() -> None:
    offsets = absolute_offsets((2, 3))
    assert offsets[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert offsets[5].tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("model_name", ["mixer_s32_224", "gmlp_ti16_224", "resmlp_12_224"])
def test_matrices_over_tokens_are_refused(model_name: str) -> None:
    with pytest.raises(ValueError, match=rf"{model_name} cannot serve .* learned matrix over that very number of tok"):
        adapters.TimmAdapter(model_name)


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


def test_frozen_parts_of_models_without_a_matcher() -> None:
    adapter = randomise(adapters.TimmAdapter("poolformerv2_s12", frozen_stages=1))
    frozen = {name for name, parameter in adapter.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(name.startswith(("trunk.stem.", "trunk.stages.0.")) for name in frozen)
