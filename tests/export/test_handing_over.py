"""A file gets its name once it has been compared; before that, and after a mistake, there is none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters.export.handing_over import write_verified
from adapters.export.tracing import Freedom
from adapters.export.verification import CASES, cases_of, make_image


class Branching(nn.Module):
    """Does something else for tall images, which a trace of a wide one cannot know."""

    def forward(self, image: Tensor) -> Tensor:
        return image * 2 if image.shape[-2] > image.shape[-1] else image


class Counting(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image[:, :, : int(image.mean() * 0) + 1]


def write(module: nn.Module, path: Path, **options: object) -> None:
    example = make_image((2, 13, 21), 3, 0)
    write_verified(module.eval(), path, example=example, names=["out"], cases=CASES, name="a model", **options)


def test_a_branch_on_the_size_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    says = r"branch.pt2 is not written, since at batch 3, 97 x 65, out differs by 5.0e-01 .*; give --size H W"
    with pytest.raises(ValueError, match=says):
        write(Branching(), tmp_path / "branch.pt2")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "branch.pt2"
    path.write_text("older")
    with pytest.raises(ValueError, match="is not written"):
        write(Branching(), path)
    assert path.read_text() == "older"


def test_a_size_that_is_given_makes_it_right(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "branch.pt2"
    check = write_verified(
        Branching(),
        path,
        example=make_image((2, 21, 13), 3, 0),
        names=["out"],
        cases=cases_of(None, (21, 13)),
        freedom=Freedom(size=False),
        metadata={"key": [1, 2]},
    )
    assert check.worst == 0
    assert path.is_file()


def test_what_cannot_be_traced_names_the_line(tmp_path: Path) -> None:
    says = r"a model cannot be exported with free height and width: GuardOnDataDependent\w*, .*; give --size H W"
    with pytest.raises(ValueError, match=says):
        write(Counting(), tmp_path / "counting.pt2")


def test_a_name_says_the_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.pth must end in .pt2 or .onnx, which says the format"):
        write(nn.Identity(), tmp_path / "model.pth")


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Sorting(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.linalg.svdvals(image)

    says = r"a model cannot be written as ONNX: ONNX has no operator for aten\.\w+; write a .pt2 file"
    with pytest.raises(ValueError, match=says):
        write(Sorting(), tmp_path / "sorting.onnx")
    assert list(tmp_path.iterdir()) == []
