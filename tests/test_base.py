"""What every adapter promises, over the whole zoo."""

import copy
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from lab.kernels import KERNELS, switched_off
from mmengine.registry import MODELS
from references import relative_error
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten
from zoo import ZOO, Spec, image, randomise

import adapters
from adapters.factory import FAMILIES

SIZES = ((97, 65), (32, 32), (1, 1), (3, 200))
each_spec = pytest.mark.parametrize("spec", ZOO, ids=str)


def ceil_div(side: int, stride: int) -> int:
    return -(-side // stride)


def assert_true_levels(adapter: adapters.BackboneAdapter, x: torch.Tensor) -> None:
    maps = adapter(x)
    assert isinstance(maps, tuple)
    assert len(maps) == len(adapter.levels)
    for feature_map, level in zip(maps, adapter.levels, strict=True):
        sides = (ceil_div(side, level.stride) for side in x.shape[-2:])
        assert feature_map.shape == (x.shape[0], level.channels, *sides)
        assert feature_map.is_contiguous()
        assert feature_map.dtype == x.dtype
        assert feature_map.device == x.device


def test_every_registered_adapter_is_in_the_zoo() -> None:
    covered = {spec.family for spec in ZOO}
    assert covered == {*FAMILIES, adapters.GenericAdapter}
    registered = {MODELS.get(name) for name in MODELS.module_dict if "adapters." in MODELS.get(name).__module__}
    backbones = {cls for cls in registered if inspect.isclass(cls) and issubclass(cls, adapters.BackboneAdapter)}
    assert backbones == set(FAMILIES)


@each_spec
def test_the_name_leads_to_the_family(spec: Spec) -> None:
    assert type(spec.build()) is spec.family


@each_spec
@torch.no_grad()
def test_any_size_in_eval(spec: Spec) -> None:
    """One adapter, the size changing from call to call."""
    adapter = spec.build()
    for height, width in SIZES:
        assert_true_levels(adapter, image(height, width))


@each_spec
def test_any_size_in_train(spec: Spec) -> None:
    adapter = spec.build(drop_path_rate=0.1).train()
    for height, width in SIZES:
        assert_true_levels(adapter, image(height, width))


@each_spec
def test_every_parameter_receives_a_gradient(spec: Spec) -> None:
    """So that DDP runs without find_unused_parameters."""
    adapter = spec.build().train()
    weighted = (feature_map * torch.randn_like(feature_map) for feature_map in adapter(image(70, 100)))
    sum(part.sum() for part in weighted).backward()
    parameters = dict(adapter.named_parameters())
    assert parameters
    assert [name for name, parameter in parameters.items() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters.values())
    # Softmax ignores what shifts every score of a head alike.
    silent = [name for name, parameter in parameters.items() if not parameter.grad.abs().max() > 0]
    assert all(name.endswith(("pos_proj.bias", "meta_mlp.fc2.bias")) for name in silent), silent


@each_spec
def test_the_trunk_keeps_the_names_of_timm(spec: Spec) -> None:
    import timm

    adapter = spec.build()
    names = set(timm.create_model(spec.model_name, **spec.options.get("trunk", {})).state_dict())
    kept = set(adapter.trunk.state_dict())
    assert kept <= names
    assert adapter.pruned_keys == names - kept


@each_spec
@torch.no_grad()
def test_state_dict_round_trip(spec: Spec) -> None:
    first, second = spec.build(), spec.build()
    randomise(first, seed=7)
    x = image(40, 56)
    assert not torch.equal(first(x)[0], second(x)[0])
    second.load_state_dict(first.state_dict())
    for one, other in zip(first(x), second(x), strict=True):
        assert torch.equal(one, other)


@each_spec
@torch.no_grad()
def test_deepcopy_computes_with_its_own_parameters(spec: Spec) -> None:
    """As the averaged copy of mmengine's EMA hook does."""
    adapter = spec.build(with_cp=True)
    twin = copy.deepcopy(adapter)
    x = image(40, 56)
    expected = adapter(x)
    for parameter in adapter.parameters():
        parameter.zero_()
    for one, other in zip(twin(x), expected, strict=True):
        assert torch.equal(one, other)


@each_spec
def test_an_adapter_can_be_pickled(spec: Spec) -> None:
    """Also with the classes that are made where a trunk is changed."""
    adapter = spec.build(with_cp=True)
    twin = pickle.loads(pickle.dumps(adapter))
    assert [type(module) for module in twin.modules()] == [type(module) for module in adapter.modules()]
    with torch.no_grad():
        for one, other in zip(twin(image(40, 56)), adapter(image(40, 56)), strict=True):
            assert torch.equal(one, other)


@each_spec
@torch.no_grad()
def test_maps_do_not_depend_on_the_other_images_or_on_earlier_calls(spec: Spec) -> None:
    adapter = spec.build()
    x = image(50, 70)
    expected = adapter(x)
    adapter(image(33, 90))
    alone = adapter(x[1:])
    for whole, one in zip(expected, alone, strict=True):
        torch.testing.assert_close(whole[1:], one, rtol=1e-4, atol=1e-4)


@each_spec
def test_checkpointing_gives_the_same_gradients(spec: Spec) -> None:
    plain, checkpointed = spec.build().train(), spec.build(with_cp=True).train()
    x = image(40, 72)
    for adapter in (plain, checkpointed):
        torch.manual_seed(0)
        adapter(x)[-1].square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in checkpointed.named_parameters()}
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


@each_spec
def test_checkpointing_recomputes(spec: Spec) -> None:
    """Some module runs again in the backward pass."""
    calls = {False: 0, True: 0}
    for with_cp in calls:
        adapter = spec.build(with_cp=with_cp).train()

        def count(*_: object, key: bool = with_cp) -> None:
            calls[key] += 1

        for module in adapter.trunk.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_pre_hook(count)
        adapter(image(32, 64))[-1].sum().backward()
    assert calls[True] > 1.5 * calls[False]


@each_spec
@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)], ids=str)
def test_autocast_is_finite_and_close(spec: Spec, dtype: torch.dtype, tolerance: float) -> None:
    adapter = spec.build()
    x = image(64, 96)
    expected = adapter(x)
    with torch.autocast("cpu", dtype=dtype):
        assert_true_levels(adapter, x)
        actual = adapter(x)
        with ExitStack() as stack:
            for name in KERNELS:
                stack.enter_context(switched_off(name))
            without = adapter(x)
    for low, full, reference in zip(actual, expected, without, strict=True):
        assert low.isfinite().all()
        # Some CPUs' own layers round by more than the tolerance: a kernel of ours may add a tenth to that.
        rounding = relative_error(reference, full)
        assert rounding < 2 * tolerance
        assert relative_error(low, full) < max(tolerance, 1.1 * rounding)


@each_spec
def test_other_numbers_of_channels(spec: Spec) -> None:
    assert_true_levels(spec.build(in_channels=5), image(40, 40, channels=5))


@each_spec
def test_builds_on_the_meta_device(spec: Spec) -> None:
    """Every tensor is a registered parameter or buffer, so that moving the adapter leaves none behind."""
    adapter = spec.build().to("meta")
    for feature_map in adapter(torch.empty(1, 3, 64, 96, device="meta")):
        assert feature_map.device.type == "meta"


class NoTransfers(TorchFunctionMode):
    """Fails at what would make the host wait for a device: copying from one to the other."""

    def __torch_function__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = operator(*arguments, **(named or {}))
        tensors = [value for value in tree_flatten((arguments, named, result))[0] if isinstance(value, Tensor)]
        # A tensor of one value goes along with the operator, as a number does.
        places = {tensor.device.type for tensor in tensors if tensor.ndim}
        assert len(places) < 2, f"{operator} between {places}"
        return result


@each_spec
@pytest.mark.parametrize("train", [False, True])
def test_nothing_waits_for_the_device(spec: Spec, train: bool) -> None:
    """Nor is a value read: the meta device has none. What is made once for a size that was never seen may come over."""
    adapter = spec.build().to("meta").train(train)
    adapter(torch.empty(2, 3, 64, 96, device="meta"))
    with NoTransfers():
        maps = adapter(torch.empty(2, 3, 64, 96, device="meta"))
        if train:
            torch.stack([feature_map.sum() for feature_map in maps]).sum().backward()


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
@each_spec
def test_builds_from_a_config_in_both_scopes(spec: Spec, scope: str) -> None:
    registry = __import__(f"{scope}.registry", fromlist=["MODELS"]).MODELS
    config = dict(type="TimmAdapter", model_name=spec.model_name, **spec.options)
    assert type(registry.build(config)) is spec.family
    if spec.family in FAMILIES:
        assert type(registry.build({**config, "type": spec.family.__name__})) is spec.family


def test_a_parent_that_initialises_its_children_leaves_the_trunk_alone() -> None:
    """mmengine's ``BaseModule.init_weights`` calls that of every child."""
    from mmengine.model import BaseModule

    class Detector(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = next(spec for spec in ZOO if spec.name == "swinv2_cr").build()

    detector = Detector()
    before = copy.deepcopy(detector.backbone.state_dict())
    detector.init_weights()
    after = detector.backbone.state_dict()
    wiped = [name for name in before if not torch.equal(before[name], after[name])]
    assert wiped == []


#: Sizes of passes before one backward; the first comes again.
SEVERAL_SIZES = ((40, 72), (100, 33), (40, 72))


def gradients_of(adapter: adapters.BackboneAdapter) -> dict[str, Tensor]:
    """The parameters' gradients after a backward pass over images of several sizes."""
    torch.manual_seed(0)
    maps = [adapter(image(height, width, seed=height)) for height, width in SEVERAL_SIZES]
    sum(feature_map.square().sum() for some in maps for feature_map in some).backward()
    return {name: parameter.grad for name, parameter in adapter.named_parameters() if parameter.grad is not None}


@each_spec
def test_two_sizes_before_one_backward_with_checkpointing(spec: Spec) -> None:
    """Blocks are recomputed at the sizes at which they ran, and what was resampled is still there."""
    expected = gradients_of(spec.build().train())
    actual = gradients_of(spec.build(with_cp=True).train())
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        assert relative_error(actual[name], gradient) < 1e-3 or gradient.abs().max() < 1e-5, name


@each_spec
def test_a_size_does_not_leak_into_the_gradients_of_another(spec: Spec) -> None:
    """Two sizes before one backward give the sum of the gradients of each alone."""
    together = gradients_of(spec.build())
    adapter = spec.build()
    for height, width in SEVERAL_SIZES:
        sum(feature_map.square().sum() for feature_map in adapter(image(height, width, seed=height))).backward()
    for name, parameter in adapter.named_parameters():
        if parameter.grad is not None:
            assert relative_error(together[name], parameter.grad) < 1e-3 or parameter.grad.abs().max() < 1e-5, name


@each_spec
def test_threads_do_not_see_one_anothers_sizes(spec: Spec) -> None:
    """Four threads, each with a size of its own, on one adapter."""
    adapter = spec.build()
    sizes = ((40, 72), (100, 33), (64, 64), (3, 90))
    images = [image(*size) for size in sizes]
    with torch.no_grad():
        expected = [adapter(x) for x in images]
    start = threading.Barrier(len(sizes))

    def run(x: Tensor) -> list[tuple[Tensor, ...]]:
        start.wait()
        with torch.no_grad():
            return [adapter(x) for _ in range(8)]

    with ThreadPoolExecutor(len(sizes)) as pool:
        for passes, maps in zip(pool.map(run, images), expected, strict=True):
            for some in passes:
                for one, other in zip(some, maps, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
