"""Reading files that nobody vouches for: what is safe is read, the rest is refused, and nothing is ever run."""

import argparse
import os
import pickle
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adapters.weights.file import read_file

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}


class Mark:
    """Creates a file when it is unpickled by a reader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def assert_same(contents: object) -> None:
    assert isinstance(contents, dict)
    assert contents.keys() == STATE.keys()
    assert all(torch.equal(contents[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.safetensors", "a"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_every_kind_is_read_whatever_its_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_file(STATE, str(path))
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    assert_same(read_file(path))


@pytest.mark.parametrize("new_format", [True, False])
def test_records_of_a_training_run_do_no_harm(tmp_path: Path, new_format: bool) -> None:
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    records = {
        "args": argparse.Namespace(lr=1e-3, output=Path("/somewhere"), best=np.float64(0.5)),
        "scalars": [np.float32(1.5), np.int64(2), np.arange(3)],
        "meta": {"cfg": ConfigDict(a=1, b={"c": 2}), "epoch": 3, "seen": {1, 2}},
        "message_hub": OrderedDict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
        "counts": defaultdict(list, {"a": [1]}),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    path = tmp_path / "run.pth"
    torch.save({"state_dict": STATE, **records}, path, _use_new_zipfile_serialization=new_format)
    assert_same(read_file(path)["state_dict"])


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle 0", "pickle 2", "pickle 4"])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, how: str, name: str) -> None:
    mark = Mark(tmp_path / "it ran")
    path = tmp_path / name
    if how.startswith("torch"):
        torch.save({"state_dict": STATE, "meta": mark}, path, _use_new_zipfile_serialization="legacy" not in how)
    else:
        path.write_bytes(pickle.dumps({"state_dict": 1, "meta": mark}, protocol=int(how[-1])))
    with pytest.raises(ValueError, match=r"refused, and nothing in it was run: it holds code or objects.*posix\.mkdir"):
        read_file(path)
    assert not mark.path.exists()
    if how == "torch":  # The mark is one: a reader that trusts the file does run it.
        torch.load(path, weights_only=False)
        assert mark.path.exists()


class Normed(nn.Module):
    """A module with a buffer that it does not save."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("table", torch.ones(3), persistent=False)
        self.missing = None


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 3}])
def test_a_module_that_was_saved_whole_gives_its_state_dict(
    tmp_path: Path, wrap: Callable[[nn.Module], object], new_format: bool
) -> None:
    path, model = tmp_path / "model.pth", Normed()
    torch.save(wrap(model), path, _use_new_zipfile_serialization=new_format)
    contents = read_file(path)
    found = contents.get("model", contents)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())
    assert "the tensors of a whole" in contents.title("model.pth")


def test_a_module_beside_named_tensors_is_read_past(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": STATE, "hyper_parameters": {"teacher": Normed()}}, path)
    contents = read_file(path)
    assert_same(contents["state_dict"])
    assert re.search(r"read past, with tensors in them: hyper_parameters\.teacher, a .*Normed", contents.title("x"))


def write_zip(path: Path, member: str = "a/b.txt") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "text")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html></html>"), "is a web page, not a checkpoint"),
    "lfs pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
    "text": (lambda path: path.write_text("hello"), "is no checkpoint: it begins with b'hello'"),
    "picture": (lambda path: path.write_bytes(b"\x89PNG\r\n" + bytes(99)), "is no checkpoint"),
    "numpy": (lambda path: np.savez(path.open("wb"), a=np.ones(3)), "is a NumPy archive"),
    "zip": (write_zip, "cannot be read as a checkpoint"),
    "script": (lambda path: write_zip(path, "a/constants.pkl"), "is a TorchScript program"),
    "list": (lambda path: torch.save([1, 2], path), "holds a list, not a state dict"),
    "tensor": (lambda path: torch.save(torch.ones(2), path), "holds a Tensor, not a state dict"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_other_kinds_of_files_are_told_apart(tmp_path: Path, kind: str) -> None:
    write, message = BROKEN[kind]
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / "weights.pth"
    state = {str(number): torch.randn(50, 50) for number in range(4)}
    if kind == "safetensors":
        save_file(state, str(path))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"truncated|not a whole|is no checkpoint|damaged"):
        read_file(path)
