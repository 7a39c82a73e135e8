"""What training programs save beside the weights is read past, whatever its class, and the weights are exact."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import operator
import pickle
import random
import re
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adapters.weights.file import read_file

STATE = {
    "weight": torch.randn(2, 3),
    "count": torch.tensor(3),
    "half": torch.randn(3).half(),
    "brain": torch.randn(4).bfloat16(),
    "flags": torch.tensor([True, False]),
    "view": torch.arange(10.0)[2:5],
    "transposed": torch.randn(2, 3).t(),
    "expanded": torch.ones(1).expand(4),
    "empty": torch.empty(0, 3),
    "complex": torch.randn(3, dtype=torch.complex64),
    "unsigned": torch.tensor([1, 2, 3], dtype=torch.uint16),
    "parameter": nn.Parameter(torch.randn(3)),
}


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Frozen:
    number: int


class Slots:
    __slots__ = ("one", "two")

    def __init__(self) -> None:
        self.one, self.two = 1, [2]


class Keyword:
    def __new__(cls, *, number: int) -> "Keyword":
        made = object.__new__(cls)
        made.number = number  # type: ignore[attr-defined]
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"number": self.number}  # type: ignore[attr-defined]


class Items(dict[str, Any]):
    pass


class Six:
    """An object that uses all six parts of ``__reduce__``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Six, (), {"state": 1}, iter([1, 2]), iter([("key", 2)]), operator.setitem

    def method(self) -> None:
        pass


HYPER_PARAMETERS: dict[Any, Any] = {
    "partial": functools.partial(torch.relu),
    "partial of a class": functools.partial(nn.Linear, 3, bias=False),
    "loss": nn.CrossEntropyLoss(),
    "enum": Colour.RED,
    Colour.RED: 1,
    Frozen(1): "a key",
    (1, 2): (3,),
    "queue": collections.deque([1, 2], maxlen=3),
    "sets": ({1, Colour.RED}, frozenset([1, (2, 3)])),
    "times": (datetime.datetime(2026, 1, 1), datetime.timedelta(1)),
    "numbers": (decimal.Decimal("1.1"), 1j, 10**40, -(2**40), np.float32(1), range(3)),
    "pattern": re.compile("a+"),
    "path": Path("x"),
    "spaces": (argparse.Namespace(a=1), types.SimpleNamespace(a=2)),
    "items": Items(a=1),
    "slots": Slots(),
    "keyword": Keyword(number=3),
    "six": Six(),
    "method": Six().method,
    "function": re.sub,
    "class": nn.ReLU,
    "array": np.arange(3.0),
    "generators": (np.random.default_rng(0), random.Random(1), torch.get_rng_state()),
    "id": uuid.UUID(int=5),
    "torch": (torch.float32, torch.device("cpu"), torch.Size([1, 2])),
    "counter": collections.Counter("aab"),
    "error": ValueError("x"),
    "optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(2))]),
    "text": "é\ud800",
    "bytes": (b"abc", bytearray(b"q"), ...),
}


def assert_same(contents: object) -> None:
    assert isinstance(contents, dict)
    assert contents.keys() == STATE.keys()
    for key, tensor in STATE.items():
        found = contents[key]
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert torch.equal(found, tensor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
def test_hyper_parameters_of_any_class(tmp_path: Path, kind: str, protocol: int) -> None:
    path = tmp_path / "run.ckpt"
    contents = {"state_dict": STATE, "hyper_parameters": HYPER_PARAMETERS, "epoch": 3}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(contents, protocol))
    else:
        torch.save(contents, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    found = read_file(path)
    assert_same(found["state_dict"])
    assert found["epoch"] == 3
    assert found["hyper_parameters"]["partial"].path == "functools.partial"


def test_a_dictionary_of_a_class_of_its_own_may_hold_the_weights(tmp_path: Path) -> None:
    torch.save(Items(state_dict=Items(STATE)), tmp_path / "a.pth")
    assert_same(read_file(tmp_path / "a.pth")["state_dict"])


def test_tensors_that_have_no_name_are_told(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], momentum=0.9)
    contents = {
        "state_dict": STATE,
        "loss": nn.CrossEntropyLoss(weight=torch.ones(3)),
        "shadow": [torch.ones(2)],
        "optimizers": [{"state": {0: {"momentum_buffer": torch.ones(2)}}}],
        "seeds": [torch.get_rng_state()],
        "optimizer": optimizer,
    }
    torch.save(contents, tmp_path / "a.pth")
    title = read_file(tmp_path / "a.pth").title("a.pth")
    told = (
        "loss, a torch.nn.modules.loss.CrossEntropyLoss",
        "shadow",
        "optimizers",
        "optimizer, a torch.optim.sgd.SGD",
    )
    assert title == f"a.pth (read past, with tensors in them: {', '.join(told)})"


class Tagged(torch.Tensor):
    pass


def test_parameters_and_tensors_with_attributes_or_of_a_subclass_load(tmp_path: Path) -> None:
    tagged, parameter = torch.ones(2).as_subclass(Tagged), nn.Parameter(torch.arange(3.0))
    tagged.note = parameter.note = "seen"  # type: ignore[attr-defined]
    torch.save({"tagged": tagged, "parameter": parameter, "meta": torch.ones(2, device="meta")}, tmp_path / "a.pth")
    contents = read_file(tmp_path / "a.pth")
    assert type(contents["tagged"]) is torch.Tensor
    assert torch.equal(contents["tagged"], torch.ones(2))
    assert torch.equal(contents["parameter"], torch.arange(3.0))
    assert contents["meta"].is_meta


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), r"a sparse tensor, model\.w; .*tensor\.to_dense\(\)"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            r"a quantised .*tensor\.dequantize\(\)",
        ),
        (lambda: torch.randn(2, dtype=torch.complex64).conj(), r"a conjugate or negative view.*resolve_conj"),
        (lambda: np.ones(3), r"holds NumPy arrays \(model\.w\) and no tensors; save .*from_numpy"),
    ],
)
def test_tensors_of_other_kinds_are_one_clear_error(tmp_path: Path, tensor: Any, message: str) -> None:
    torch.save({"model": {"w": tensor()}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth holds {message.removeprefix('holds ')}"):
        read_file(tmp_path / "a.pth")


def test_a_shard_is_refused(tmp_path: Path) -> None:
    """DTensors are built by torch's function for wrappers, from a class that is not imported here."""
    data = (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_wrapper_subclass\n"
        b"ctorch.distributed.tensor\nDTensor\n(NNNNNNNNt}tRs."
    )
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"a shard or another wrapped tensor, w; .*full_tensor\(\) in its place"):
        read_file(tmp_path / "a.pth")
