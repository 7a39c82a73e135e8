"""A file beside its module: where it differs, fails or has another shape is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters.export.reading import Array, ExportedModel
from adapters.export.verification import CASES, DifferenceError, cases_of, difference, verify


class Halve(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image[..., ::2, ::2], image.mean(dim=1)


def file(change: object = None) -> ExportedModel:
    """A file of ``Halve``, with a mistake."""

    def run(image: Array) -> list[Array]:
        outputs = [output.numpy() for output in Halve()(torch.from_numpy(image))]
        return change(outputs) if callable(change) else outputs

    return ExportedModel(Path("halve.onnx"), ("half", "mean"), {}, run)


def test_a_right_file_gives_a_table() -> None:
    check = verify(file(), Halve(), CASES)
    assert check.worst == 0
    assert str(check).splitlines()[0] == "| batch | image | half | mean |"
    assert "| 3 | 97 x 65 | 0.0e+00 | 0.0e+00 |" in str(check)
    assert len(check.rows) == 6


def spoil_one_cell(outputs: list[Array]) -> list[Array]:
    """The last column of the first map is wrong, where the map is as wide as that of an image of 65 pixels."""
    if outputs[0].shape[-1] == 33:
        outputs[0] = outputs[0].copy()
        outputs[0][:, :, 5, -1] += 1
    return outputs


def fail(_: list[Array]) -> list[Array]:
    raise RuntimeError("Reshape cannot\n work")


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (spoil_one_cell, r"at batch 3, 97 x 65, half differs by .* where 1e-04 is allowed, in 0.1% .* \(0, 0, 5, 32\)"),
        (lambda outputs: [outputs[0][..., :-1], outputs[1]], r"half has the shape \(1, 3, 128, 159\) where .* 160\)"),
        (lambda outputs: [outputs[0], outputs[1] * np.nan], "mean differs by nan"),
        (fail, "it fails at batch 1, 256 x 320: RuntimeError, Reshape cannot$"),
    ],
)
def test_a_wrong_file_says_where(mistake: object, says: str) -> None:
    with pytest.raises(DifferenceError, match=says):
        verify(file(mistake), Halve(), CASES)


def test_differences_are_shares_of_the_largest_value() -> None:
    assert difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert difference(np.zeros(2), np.zeros(3)) == float("inf")
    assert difference(np.full(2, 0.5), np.zeros(2)) == 0.5


def test_images_have_what_a_file_fixes() -> None:
    assert cases_of(None, None) == CASES
    assert {case[0] for case in cases_of(None, (8, 9))} == {1, 3}
    assert set(cases_of(2, (8, 9))) == {(2, 8, 9)}
    odd = [case for case in CASES if case[1] % 2 and case[2] % 2]
    portrait = [case for case in CASES if case[1] > case[2]]
    assert odd
    assert portrait
