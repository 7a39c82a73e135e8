"""What takes the place of newer parts of torch gives the same answers as they do."""

import importlib.util
import typing
from collections.abc import Sequence
from types import ModuleType

import pytest
import torch
import torch.nn.modules.module as modules
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils.flop_counter import FlopCounterMode

from adapters.kernels import versions


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is with a torch that has none of the newer parts."""
    for holder, name in (
        (torch.library, "custom_op"),
        (torch.amp, "is_autocast_available"),
        (modules, "_has_any_global_hook"),
        (torch._C, "_are_functorch_transforms_active"),
        (_python_dispatch, "is_in_torch_dispatch_mode"),
    ):
        monkeypatch.delattr(holder, name, raising=False)
    spec = importlib.util.spec_from_file_location("older_versions", versions.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["are_transforms_active", "is_in_torch_dispatch_mode"])
def test_sees_who_watches_a_pass(older: ModuleType, name: str) -> None:
    answers: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        answers.append(getattr(older, name)())
        return x.sum()

    ask(torch.ones(3))
    torch.func.grad(ask)(torch.ones(3))
    with FlopCounterMode(display=False):
        ask(torch.ones(3))
    assert answers == [False, name == "are_transforms_active", name == "is_in_torch_dispatch_mode"]


def test_knows_the_devices_of_autocast(older: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [older.is_autocast_available(kind) for kind in ("cpu", "cuda", "meta")] == [True, True, False]
    with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as patch:
        patch.delattr(torch, "get_autocast_dtype", raising=False)
        assert [older.autocast_dtype(kind) for kind in ("cpu", "cuda", "meta")] == [torch.bfloat16, None, None]


def test_sequences_are_spelt_as_older_torch_reads_them() -> None:
    def take(x: Tensor, axes: Sequence[int], scale: float) -> Tensor:
        return x.sum(axes) * scale

    assert versions.spell_sequences(take) is take
    assert take.__annotations__ == {"x": Tensor, "axes": typing.Sequence[int], "scale": float, "return": Tensor}


def test_an_operator_is_the_function(older: ModuleType) -> None:
    @older.custom_op("adapters::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return 2 * x

    double.register_fake(lambda x: x)
    double.register_autograd(lambda *_: None, setup_context=lambda *_: None)
    x = torch.ones(3, requires_grad=True)
    (slope,) = torch.autograd.grad(double(x).sum(), x)
    assert slope.tolist() == [2, 2, 2]


def test_sees_a_hook_on_every_module(older: ModuleType) -> None:
    assert not older.has_global_hook()
    handle = modules.register_module_forward_hook(lambda *_: None)
    assert older.has_global_hook()
    handle.remove()
