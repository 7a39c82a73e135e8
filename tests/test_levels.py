"""Levels and indices: numbers that follow from strides alone."""

import pytest

from adapters.levels import Level, choose_indices, format_levels, is_token_model, resolve_indices, spread_blocks

TOKEN_MODEL = [Level(24, 16)] * 12


def stages(*strides: int) -> list[Level]:
    return [Level(8 * number, stride) for number, stride in enumerate(strides, 1)]


def test_levels_are_written_for_a_message() -> None:
    assert format_levels([Level(64, 4), Level(128, 8)]) == "stride 4: 64 channels, stride 8: 128 channels"


@pytest.mark.parametrize(
    ("indices", "resolved"), [((0, 1, 3), (0, 1, 3)), ([-1], (3,)), ((0, -2, -1), (0, 2, 3)), (range(4), (0, 1, 2, 3))]
)
def test_negative_indices_count_from_the_end(indices: tuple[int, ...], resolved: tuple[int, ...]) -> None:
    assert resolve_indices(indices, 4, "it has 4 stages") == resolved


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((), r"blocks is empty; it has 4 stages, so each index must lie in -4\.\.3"),
        ((0, 4), r"blocks=\(0, 4\) holds 4, which is out of range"),
        ((-5,), "holds -5, which is out of range"),
        ((2, 1), r"stands for \(2, 1\), which is not strictly increasing"),
        ((3, -1), r"stands for \(3, 3\), which is not strictly increasing"),
        ((0, 1.0), r"blocks=\(0, 1\.0\) must be a sequence of integers"),
        ("01", "blocks='01' must be a sequence of integers"),
        (2, "blocks=2 must be a sequence of integers"),
    ],
)
def test_indices_that_are_refused(indices: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_indices(indices, 4, "it has 4 stages", argument="blocks")


def test_a_token_model_has_one_stride_in_several_blocks() -> None:
    assert is_token_model(TOKEN_MODEL)
    assert not is_token_model(stages(4, 8, 16, 32))
    assert not is_token_model(stages(16))


@pytest.mark.parametrize("depth", range(1, 33))
@pytest.mark.parametrize("count", range(1, 7))
def test_blocks_are_spread_evenly_up_to_the_last(count: int, depth: int) -> None:
    blocks = spread_blocks(count, depth)
    assert blocks[-1] == depth - 1
    assert len(blocks) == min(count, depth)
    gaps = [later - earlier for earlier, later in zip((-1, *blocks), blocks, strict=False)]
    assert max(gaps) - min(gaps) <= 1
    assert min(gaps) >= 1


@pytest.mark.parametrize(
    ("levels", "pyramid_maps", "chosen"),
    [
        (stages(4, 8, 16, 32), None, (0, 1, 2, 3)),
        (stages(2, 4, 8, 16, 32), None, (1, 2, 3, 4)),
        (stages(2, 4, 4, 8, 16, 16, 32), None, (2, 3, 5, 6)),  # the last of several of one stride
        (stages(1, 2, 4, 8, 16), None, (1, 2, 3, 4)),  # without a stride of 32, the last four
        (stages(8, 16), None, (0, 1)),
        (TOKEN_MODEL, None, (2, 5, 8, 11)),
        (TOKEN_MODEL, 1, (11,)),
        (TOKEN_MODEL, 3, (3, 7, 11)),
        (stages(4, 8, 16, 32), 1, (3,)),
    ],
    ids=str,
)
def test_defaults(levels: list[Level], pyramid_maps: int | None, chosen: tuple[int, ...]) -> None:
    assert choose_indices(None, levels, pyramid_maps, "a_model") == chosen


def test_indices_that_are_asked_for_come_before_the_defaults() -> None:
    assert choose_indices((0, -1), TOKEN_MODEL, 1, "a_model") == (0, 11)
    with pytest.raises(ValueError, match=r"a_model has 12 blocks, so each index must lie in -12\.\.11"):
        choose_indices((12,), TOKEN_MODEL, None, "a_model")
    with pytest.raises(ValueError, match="a_model has 4 stages"):
        choose_indices((4,), stages(4, 8, 16, 32), None, "a_model")
