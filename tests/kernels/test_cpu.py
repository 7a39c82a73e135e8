"""A kernel passes by nothing that someone has put on a layer."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.modules.module as torch_module
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from zoo import ZOO, Spec, image, randomise

from adapters.kernels.cpu import is_untouched
from adapters.trunk.fused_mlps import fuse_mlps

each_spec = pytest.mark.parametrize("spec", ZOO, ids=str)


class Model(nn.Module):
    """An MLP and a linear layer; the MLP through the kernel or as timm has it."""

    def __init__(self, use_kernels: bool) -> None:
        super().__init__()
        self.mlp, self.last = Mlp(6, 10, 5), nn.Linear(5, 4)
        randomise(self).eval()
        if use_kernels:
            fuse_mlps(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mlp(x))


def make() -> tuple[Model, Model]:
    """The same parameters without kernels and with."""
    reference, fast = Model(use_kernels=False), Model(use_kernels=True)
    fast.load_state_dict(reference.state_dict())
    return reference, fast


class LowRank(nn.Module):
    """A wrapper in a layer's place, as LoRA has it; its layer stays inside."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 1


class LowRankLinear(nn.Linear):
    """A subclass in a layer's place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 1


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Quantised(Tensor):
    """A tensor that multiplies in its own way."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result + 3 if func is torch.nn.functional.linear else result


def wrap(model: Model, name: str) -> None:
    parent = model.mlp if "." in name else model
    setattr(parent, name.rpartition(".")[2], LowRank(model.get_submodule(name)))


def subclass(model: Model, name: str) -> None:
    layer = LowRankLinear(*reversed(model.get_submodule(name).weight.shape))
    layer.load_state_dict(model.get_submodule(name).state_dict())
    parent = model.mlp if "." in name else model
    setattr(parent, name.rpartition(".")[2], layer)


def hook(model: Model, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: output * 2)


def pre_hook(model: Model, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 2,))


def parametrise(model: Model, name: str) -> None:
    parametrize.register_parametrization(model.get_submodule(name), "weight", Doubled())


def weight_norm(model: Model, name: str) -> None:
    parametrizations.weight_norm(model.get_submodule(name)).parametrizations.weight.original0.data.mul_(2)


def prune_half(model: Model, name: str) -> None:
    """Pruning computes the weight before each call, from the original."""
    layer = model.get_submodule(name)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    layer.weight_orig.data.mul_(2)


def quantise(model: Model, name: str) -> None:
    layer = model.get_submodule(name)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)


def replace_forward(model: Model, name: str) -> None:
    layer = model.get_submodule(name)
    layer.forward = lambda x: nn.Linear.forward(layer, x) + 5


CHANGES = (wrap, subclass, hook, pre_hook, parametrise, weight_norm, prune_half, quantise, replace_forward)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp.fc1", "mlp.fc2"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_put_on_a_layer_takes_effect(change: Callable[[Model, str], None], name: str) -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    reference, fast = make()
    before = fast(x)
    torch.testing.assert_close(before, reference(x), rtol=1e-5, atol=1e-6)
    for model in (reference, fast):
        change(model, name)
    torch.testing.assert_close(fast(x), reference(x), rtol=1e-5, atol=1e-6)
    assert (fast(x) - before).norm() > 1e-3 * before.norm()


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp.act", "mlp.drop1", "mlp.norm", "mlp.drop2", "mlp"])
@pytest.mark.parametrize("change", [hook, pre_hook], ids=lambda change: change.__name__)
def test_a_hook_on_the_rest_of_an_mlp_takes_effect(change: Callable[[Model, str], None], name: str) -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    reference, fast = make()
    before = fast(x)
    for model in (reference, fast):
        change(model, name)
    torch.testing.assert_close(fast(x), reference(x), rtol=1e-5, atol=1e-6)
    assert not torch.equal(fast(x), before)


@torch.no_grad()
def test_a_hook_on_every_module_sees_the_layers() -> None:
    seen: list[type[nn.Module]] = []
    fast = Model(use_kernels=True)
    handle = torch_module.register_module_forward_hook(lambda module, _inputs, _output: seen.append(type(module)))
    try:
        assert not is_untouched(fast.last, nn.Linear)
        fast(torch.randn(3, 6))
    finally:
        handle.remove()
    assert seen.count(nn.Linear) == 3
    assert is_untouched(fast.last, nn.Linear)


@each_spec
def test_no_linear_layer_changes_its_class(spec: Spec) -> None:
    layers = [module for module in spec.build(with_cp=True).trunk.modules() if isinstance(module, nn.Linear)]
    assert [type(layer) for layer in layers if type(layer) is not nn.Linear] == []


@each_spec
@torch.no_grad()
def test_a_hook_on_each_linear_layer_is_called_as_without_kernels(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that a kernel computes are hooked one by one; the maps stay what they are."""
    adapter = spec.build()
    x = image(40, 56)
    expected = adapter(x)
    monkeypatch.setattr("adapters.kernels.mlp.HAS_ONEDNN", False)
    for one, other in zip(adapter(x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    called: list[str] = []
    for name, module in adapter.trunk.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    adapter(x)
    without = sorted(called)
    monkeypatch.undo()
    called.clear()
    adapter(x)
    assert sorted(called) == without
