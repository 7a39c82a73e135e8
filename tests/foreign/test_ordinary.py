"""An adapter is an ordinary torch model: to torch.func, hooks, parametrisations, other dtypes and replicas."""

from collections import OrderedDict

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrize, prune
from zoo import MORE, ZOO, Spec, image

from adapters import BackboneAdapter

each_model = pytest.mark.parametrize("spec", [*ZOO, *MORE], ids=str)
#: Modules of timm's that hold a parameter and are never called: tables that another module asks for.
NEVER_CALLED = ("rope", "rel_pos")


def assert_close(maps: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-4) -> None:
    for one, other in zip(maps, expected, strict=True):
        assert (one.float() - other.float()).norm() < tolerance * other.float().norm()


def scaled(adapter: BackboneAdapter, factor: float) -> dict[str, Tensor]:
    return {name: factor * parameter.detach() for name, parameter in adapter.named_parameters()}


@each_model
def test_functional_call_takes_other_parameters_and_leaves_nothing_behind(spec: Spec) -> None:
    adapter, x = spec.build(), image(40, 56)
    other = spec.build()
    parameters = scaled(adapter, 1.1)
    with torch.no_grad():
        before = adapter(x)
        for name, parameter in other.named_parameters():
            parameter.copy_(parameters[name])
        assert_close(functional_call(adapter, parameters, (x,)), other(x))
        if spec.name != "coat":  # see below
            assert_close(adapter(x), before, 1e-6)


@each_model
def test_functional_gradients_are_autograds(spec: Spec) -> None:
    # torch restores modules that are registered twice wrongly after functional_call, timm's CoaT alone, too.
    adapter, twin, x = spec.build(), spec.build(), image(40, 56, batch=1)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return sum(feature_map.square().mean() for feature_map in functional_call(adapter, parameters, (x,)))

    gradients = grad(loss)(scaled(adapter, 1.0))
    sum(feature_map.square().mean() for feature_map in twin(x)).backward()
    for name, parameter in twin.named_parameters():
        assert (gradients[name] - parameter.grad).norm() <= 1e-3 * parameter.grad.norm() + 1e-5


@each_model
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_images(spec: Spec) -> None:
    adapter, x = spec.build(), image(40, 56)
    assert_close(vmap(lambda one: tuple(feature_map[0] for feature_map in adapter(one[None])))(x), adapter(x))


@each_model
@torch.no_grad()
def test_hooks_on_every_leaf_are_called(spec: Spec) -> None:
    adapter, x = spec.build(), image(40, 56)
    expected = adapter(x)
    calls: dict[str, set[str]] = {"hook": set(), "pre_hook": set()}
    leaves = [(name, module) for name, module in adapter.named_modules() if not list(module.children())]
    for name, module in leaves:
        module.register_forward_hook(lambda *_, name=name: calls["hook"].add(name))
        module.register_forward_pre_hook(lambda *_, name=name: calls["pre_hook"].add(name))
    assert_close(adapter(x), expected, 1e-5)
    holding = {name for name, module in leaves if list(module.parameters()) and not name.endswith(NEVER_CALLED)}
    for called in calls.values():
        assert holding - called == set()


class Scaled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 1.1 * weight


@each_model
@torch.no_grad()
def test_parametrised_and_pruned_layers_compute_with_what_they_are_given(spec: Spec) -> None:
    adapter, other, x = spec.build(), spec.build(), image(40, 56)
    for name, module in list(adapter.named_modules()):
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.5)
            other.get_submodule(name).weight.mul_(module.weight_mask)
        elif isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", Scaled())
            other.get_submodule(name).weight.mul_(1.1)
    assert_close(adapter(x), other(x))


@each_model
@torch.no_grad()
def test_other_dtypes_and_layouts(spec: Spec) -> None:
    adapter, x = spec.build(), image(40, 56)
    expected = adapter(x)
    strided = x.contiguous(memory_format=torch.channels_last)
    assert_close(spec.build().to(memory_format=torch.channels_last)(strided), expected)
    for dtype, tolerance in ((torch.double, 1e-4), (torch.bfloat16, 0.1), (torch.half, 0.02)):
        if (spec.name, dtype) == ("swinv2", torch.half):
            continue  # timm divides padded tokens by their length, zero, whose 1e-12 no half can hold
        maps = spec.build().to(dtype)(x.to(dtype))
        assert {feature_map.dtype for feature_map in maps} == {dtype}
        assert_close(maps, expected, tolerance)


def replicate(model: nn.Module) -> nn.Module:
    """Copy a model as ``nn.DataParallel`` does for each GPU: parameters are ordinary attributes of the copies."""
    modules = list(model.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}
    for module, copy in copies.items():
        copy._former_parameters = OrderedDict()
        for name, child in module._modules.items():
            copy._modules[name] = None if child is None else copies[child]
        for name, parameter in module._parameters.items():
            if parameter is None:
                copy._parameters[name] = None
            else:
                copy._former_parameters[name] = parameter.clone()
                setattr(copy, name, copy._former_parameters[name])
        for name, buffer in module._buffers.items():
            copy._buffers[name] = None if buffer is None else buffer.clone()
    return copies[model]


@each_model
def test_a_replica_of_data_parallel(spec: Spec) -> None:
    adapter, x = spec.build(), image(40, 56)
    with torch.no_grad():
        expected = adapter(x)
        assert_close(replicate(adapter)(x), expected)
    sum(feature_map.mean() for feature_map in replicate(adapter)(x)).backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


@pytest.mark.parametrize("spec", MORE, ids=str)
@torch.no_grad()
def test_moving_averages(spec: Spec) -> None:
    adapter, x = spec.build(), image(40, 56)
    average = ExponentialMovingAverage(adapter, momentum=0.5)
    for parameter in adapter.parameters():
        parameter.mul_(1.2)
    for _ in range(2):  # the first update copies
        average.update_parameters(adapter)
    assert_close(average(x), adapter(x))
