"""Windows as tensor arithmetic compute what the eager ones do, at sizes below, at and above a window."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from adapters.windows.attention import attend_in_windows
from adapters.windows.exported import ExportedAxis, ExportedWindows, attend_exported, exported_windows, sharing_windows
from adapters.windows.partition import Axis

WINDOW = 4
SIZES = ((4, 8), (7, 9), (3, 10), (1, 2), (5, 4))


def eager_axis(size: int, shift: int) -> Axis:
    """A side no larger than a window is one window, neither padded nor shifted."""
    return Axis(size, WINDOW, shift) if size > WINDOW else Axis(size, size)


def project(tokens: Tensor) -> Tensor:
    return tokens


def attend(x: Tensor, mask: Tensor | None) -> Tensor:
    scores = x @ x.transpose(1, 2) / 10
    if mask is not None:
        scores = scores + (mask[:, 0] if mask.ndim == 4 else mask)
    return scores.softmax(-1) @ x


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("shift", "score"), [(0, 0.0), (2, -100.0)], ids=["masked", "shifted"])
def test_attention_is_the_eager_one(size: tuple[int, int], shift: int, score: float) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2 * size[0] * size[1], 6)
    exported = attend_exported(tokens, 2, *(Axis(side, WINDOW, shift) for side in size), project, attend, score)
    eager = attend_in_windows(tokens, 2, *(eager_axis(side, shift) for side in size), project, attend, score)
    torch.testing.assert_close(exported, eager)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pads_are_zeros_where_nothing_is_masked(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2 * size[0] * size[1], 6)
    axes = [Axis(side, WINDOW) for side in size]
    exported = attend_exported(tokens, 2, *axes, project, attend, None)
    torch.testing.assert_close(exported, attend_in_windows(tokens, 2, *axes, project, attend, None))


def test_a_file_takes_this_way() -> None:
    tokens = torch.randn(12, 6)
    with mock.patch("torch.compiler.is_exporting", return_value=True):
        seen: list[Tensor | None] = []
        attend_in_windows(tokens, 1, Axis(3, 4), Axis(4, 4), project, lambda x, mask: seen.append(mask) or x, 0.0)
    assert seen[0] is not None
    assert seen[0].shape == (1, 1, 1, 16)  # one row for all queries, which eager windows never have


def test_sides_roll_only_where_there_are_several_windows() -> None:
    assert ExportedAxis.of(6, 4, 1, torch.device("cpu")).cells.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert ExportedAxis.of(4, 4, 1, torch.device("cpu")).cells.tolist() == [0, 1, 2, 3]


def test_one_trace_cuts_equal_grids_once() -> None:
    arguments = (1, (6, 4, 0), (5, 4, 0), torch.device("cpu"))
    with sharing_windows():
        assert exported_windows(*arguments) is exported_windows(*arguments)
        assert exported_windows(2, *arguments[1:]) is not exported_windows(*arguments)
    assert isinstance(exported_windows(*arguments), ExportedWindows)
    assert exported_windows(*arguments) is not exported_windows(*arguments)
