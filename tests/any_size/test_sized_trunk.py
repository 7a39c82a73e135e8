"""Models that timm builds for one size, at every size and under training: nothing is stale, and nothing piles up."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from zoo import ZOO, Spec, image, randomise

import adapters
from adapters import BackboneAdapter
from adapters.any_size import sized_trunk

#: Further models: another table of a class token apart, and two whose biases timm caches in eval mode.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cait": ("cait_xxs24_224", {"depth": 2, "embed_dim": 48, "num_heads": 2}),
    "tiny_vit": (
        "tiny_vit_5m_224",
        {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    ),
    "efficientvit": ("efficientvit_m0", {}),
}
SIZED = ("beit", "levit", "nest", "hiera", "crossvit", "pit", "cait")
SIZE = (64, 96)


def build(name: str, **options: Any) -> BackboneAdapter:
    """A small adapter in eval mode, all parameters randomised."""
    if name not in OTHERS:
        return next(spec for spec in ZOO if spec.name == name).build(**options)
    model_name, trunk = OTHERS[name]
    return randomise(adapters.TimmAdapter(model_name, trunk=trunk, **options)).eval()


def tables(adapter: BackboneAdapter) -> list[nn.Parameter]:
    """The parameters that another size resamples."""
    sized = adapter.sized_trunk
    changes = next(reversed(sized._changes.values()))
    names = [f"{path}.{name}".lstrip(".") for path, change in changes.items() for name in change.tables]
    held = dict(adapter.trunk.named_parameters())
    return [held[name] for name in names if name in held]  # some were pruned


def views(adapter: BackboneAdapter) -> dict[tuple[int, int], Any]:
    """The views that this thread holds."""
    return adapter.sized_trunk._of_thread.views


def loss(adapter: BackboneAdapter, seed: int = 3) -> Tensor:
    """Of maps at a size that is not the native one."""
    generator = torch.Generator().manual_seed(seed)
    maps = adapter(image(*SIZE).to(next(adapter.parameters())))
    return torch.stack([(m * torch.randn(m.shape, generator=generator)).mean() for m in maps]).sum()


@pytest.mark.parametrize("name", SIZED)
def test_the_gradient_of_a_resampled_table_is_its_slope(name: str) -> None:
    """To the one table of the native size, through the resampling: as the loss itself says on both sides of it."""
    adapter = build(name).double()
    loss(adapter).backward()
    found = tables(adapter)
    assert found
    for table in found:
        gradient = table.grad
        assert gradient.abs().max() > 0
        step = 1e-3 * table.detach().norm() / gradient.norm()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                table.add_(sign * step * gradient)
                sides.append(float(loss(adapter)))
                table.sub_(sign * step * gradient)
        slope = (sides[0] - sides[1]) / float(2 * step * gradient.square().sum())
        assert slope == pytest.approx(1, abs=0.01)


def in_place(parameter: nn.Parameter, _: BackboneAdapter) -> None:
    parameter.mul_(1.5)


def through_data(parameter: nn.Parameter, _: BackboneAdapter) -> None:
    parameter.data.mul_(1.5)


def another_tensor_as_data(parameter: nn.Parameter, _: BackboneAdapter) -> None:
    """As mmengine's EMA hook swaps the averaged weights in."""
    parameter.data = parameter.data * 1.5


def loaded(parameter: nn.Parameter, adapter: BackboneAdapter) -> None:
    name = next(name for name, one in adapter.named_parameters() if one is parameter)
    adapter.load_state_dict({**adapter.state_dict(), name: parameter * 1.5})


def stepped(parameter: nn.Parameter, adapter: BackboneAdapter) -> None:
    with torch.enable_grad():
        loss(adapter).backward()
    torch.optim.SGD([parameter], lr=float(0.5 * parameter.norm() / parameter.grad.norm().clamp_min(1e-8))).step()
    adapter.zero_grad()


@pytest.mark.parametrize("change", [in_place, through_data, another_tensor_as_data, loaded, stepped])
@pytest.mark.parametrize("name", [*SIZED, "tiny_vit", "efficientvit"])
@torch.no_grad()
def test_a_changed_parameter_is_seen_at_a_size_seen_before(
    name: str, change: Callable[[nn.Parameter, BackboneAdapter], None]
) -> None:
    """In eval mode throughout, where timm caches."""
    adapter = build(name)
    before = adapter(image(*SIZE))
    biases = [p for key, p in adapter.named_parameters() if key.endswith("attention_biases")]
    changed = biases or tables(adapter)
    assert changed
    for parameter in changed:
        change(parameter, adapter)
    after = adapter(image(*SIZE))
    assert not torch.equal(before[-1], after[-1])
    for one, other in zip(after, copy.deepcopy(adapter).train().eval()(image(*SIZE)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["levit", "tiny_vit", "efficientvit"])
def test_passes_in_eval_mode_can_be_trained_through_again(name: str) -> None:
    """What was kept from a pass without gradients, or of a graph that is gone, is not used."""
    adapter = build(name)
    with torch.inference_mode():
        adapter(image(*SIZE))
    gradients = []
    for _ in range(2):
        adapter.zero_grad()
        loss(adapter).backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", SIZED)
@torch.no_grad()
def test_a_copy_made_after_sizes_were_seen_stands_alone(name: str) -> None:
    adapter = build(name)
    expected = adapter(image(*SIZE))
    twin = copy.deepcopy(adapter)
    for table in tables(adapter):
        table.zero_()
    for one, other in zip(twin(image(*SIZE)), expected, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(adapter(image(*SIZE))[-1], expected[-1])


@pytest.mark.parametrize("name", SIZED)
@torch.no_grad()
def test_sizes_leave_no_trace(name: str) -> None:
    """No key in the state dict, and a pickled copy computes what the original did before it was changed."""
    adapter = build(name)
    keys = set(adapter.state_dict())
    sizes = [(32 * side, 64) for side in range(2, 6)]
    expected = [adapter(image(*size)) for size in sizes]
    assert set(adapter.state_dict()) == keys
    data = pickle.dumps(copy.deepcopy(adapter))
    for parameter in adapter.parameters():
        parameter.zero_()
    twin = pickle.loads(data)
    for size, maps in zip(sizes, expected, strict=True):
        for one, other in zip(twin(image(*size)), maps, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", SIZED)
@torch.no_grad()
def test_threads_of_one_size_do_not_meet(name: str) -> None:
    """On one adapter, while two sizes push each other out."""
    adapter = build(name)
    images = [image(*size) for size in (SIZE, SIZE, (96, 64), (96, 64))]
    expected = [adapter(x) for x in images]

    def work(x: Tensor) -> list[tuple[Tensor, ...]]:
        with torch.no_grad():
            return [adapter(x) for _ in range(6)]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(sized_trunk, "MAX_SIZES", 1)
        for passes, maps in zip(pool.map(work, images), expected, strict=True):
            for some in passes:
                for one, other in zip(some, maps, strict=True):
                    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["beit", "levit", "hiera", "crossvit", "tiny_vit"])
@torch.no_grad()
def test_threads_over_the_same_weights_do_not_meet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins as extraction makes them: parameters shared, sizes and views their own; more sizes than are kept."""
    monkeypatch.setattr(sized_trunk, "MAX_SIZES", 2)
    adapter = build(name)
    images = [image(32 * rows, 32 * columns) for rows, columns in ((1, 2), (2, 1), (2, 3))]
    expected = [adapter(x) for x in images]
    shared = {id(tensor): tensor for tensor in (*adapter.parameters(), *adapter.buffers())}
    twin = copy.deepcopy(adapter, shared)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in adapter.parameters()}
    if adapter.sized_trunk is not None:
        assert twin.sized_trunk._changes is not adapter.sized_trunk._changes
        assert not hasattr(twin.sized_trunk._of_thread, "views")

    def work(one: BackboneAdapter, order: list[int]) -> list[tuple[int, tuple[Tensor, ...]]]:
        with torch.no_grad():
            return [(index, one(images[index])) for index in order]

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(work, (adapter, twin), ([0, 1, 2, 0, 1, 2], [2, 1, 0, 1, 2, 0])):
            for index, maps in found:
                for one, other in zip(maps, expected[index], strict=True):
                    torch.testing.assert_close(one, other)


@torch.no_grad()
def test_the_memory_of_sizes_counts_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass leaves the resampled table behind: few large ones, or many small ones."""
    adapter = build("hiera")
    adapter(image(*SIZE))
    assert len(adapter.sized_trunk._changes) > 1
    monkeypatch.setattr(sized_trunk, "MAX_BYTES", 1000)
    adapter(image(96, 64))
    assert len(adapter.sized_trunk._changes) == 1
    assert len(views(adapter)) == 1


@torch.no_grad()
def test_both_branches_of_crossvit_see_whole_patches() -> None:
    """At 408 pixels the second branch gets 16/17 of the image, which is whole patches at multiples of 204 alone."""
    trunk = {"embed_dim": (24, 48), "depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0)), "num_heads": (2, 2)}
    adapter = randomise(adapters.TimmAdapter("crossvit_15_dagger_408", trunk=trunk)).eval()
    assert adapter.levels == (adapters.Level(24, 12),) * 3
    assert adapter.pad_multiple == 204
    for height, width in ((97, 65), (250, 333)):
        assert adapter(image(height, width))[-1].shape[-2:] == (-(-height // 12), -(-width // 12))
    model = timm.create_model("crossvit_15_dagger_408", **trunk).eval()
    assert not model.load_state_dict(adapter.trunk.state_dict(), strict=False).unexpected_keys
    x = image(408, 408)
    expected = model.forward_intermediates(x, indices=[0, 1, 2], intermediates_only=True)
    for one, other in zip(adapter(x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", ZOO, ids=str)
def test_the_models_of_one_size_are_these(spec: Spec) -> None:
    assert (getattr(spec.build(), "sized_trunk", None) is not None) == (spec.name in SIZED)


@torch.no_grad()
def test_the_memory_of_sizes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sized_trunk, "MAX_SIZES", 2)
    adapter = build("beit")
    expected = adapter(image(32, 48))[-1]
    for side in (64, 96, 128):
        adapter(image(side, 48))
        assert len(adapter.sized_trunk._changes) <= 2
        assert len(views(adapter)) <= 2
    assert torch.equal(adapter(image(32, 48))[-1], expected)


@torch.no_grad()
def test_a_known_size_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = build("beit")
    adapter(image(64, 96))
    monkeypatch.setattr(timm, "create_model", None)
    adapter(image(64, 96))
    adapter(image(60, 90))  # padded to the same


@pytest.mark.parametrize("spec", [spec for spec in ZOO if spec.name in SIZED], ids=str)
def test_converted_norms_and_modes_reach_every_size(spec: Spec) -> None:
    """SyncBN conversion puts other modules in place, and freezing changes modes, after sizes have been seen."""
    adapter = spec.build()
    with torch.no_grad():
        adapter(image(64, 96))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(adapter).train()
    view = converted.sized_trunk.at(converted.trunk, _padded(converted, (64, 96)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in view.modules())
    assert all(module.training for module in view.modules())
    assert {id(p) for p in view.parameters()} <= {id(p) for p in converted.parameters()}


def _padded(adapter: BackboneAdapter, size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(side + -side % adapter.pad_multiple + sum(adapter.pad_margins) for side in size)
