"""Position biases that are kept between passes: as good as fresh ones, whatever happens to the parameters."""

import copy
from unittest import mock

import pytest
import torch
from timm.layers import Mlp
from zoo import ZOO, image

from adapters import BackboneAdapter
from adapters.families.swinv2_cr import WindowAttention
from adapters.trunk.memo import Memo


@pytest.fixture
def adapter() -> BackboneAdapter:
    return next(spec for spec in ZOO if spec.name == "swinv2_cr").build()


def metas(adapter: BackboneAdapter) -> list[Mlp]:
    return [module.meta_mlp for module in adapter.modules() if isinstance(module, WindowAttention)]


def evaluations(adapter: BackboneAdapter, passes: int = 1) -> int:
    """How often the networks of the position bias run in this many passes; hooks would have them run in each."""
    evaluate = WindowAttention._evaluate_bias
    with mock.patch.object(WindowAttention, "_evaluate_bias", autospec=True, side_effect=evaluate) as evaluated:
        for _ in range(passes):
            adapter(image(64, 96))
    return evaluated.call_count


def assert_fresh(adapter: BackboneAdapter) -> None:
    """The maps are those of a copy, which has kept nothing."""
    for kept, fresh in zip(adapter(image(64, 96)), copy.deepcopy(adapter)(image(64, 96)), strict=True):
        torch.testing.assert_close(kept, fresh, rtol=0, atol=0)


@torch.no_grad()
def test_a_second_pass_evaluates_nothing(adapter: BackboneAdapter) -> None:
    assert evaluations(adapter) == len(metas(adapter))
    assert evaluations(adapter, passes=3) == 0


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "through .data", "another tensor as .data", "loaded", "replaced"])
def test_changed_parameters_are_seen(adapter: BackboneAdapter, change: str) -> None:
    before = adapter(image(64, 96))
    meta = metas(adapter)[0]
    weight = meta.fc1.weight
    if change == "in place":
        weight.mul_(2)
    elif change == "through .data":
        weight.data.mul_(2)
    elif change == "another tensor as .data":
        weight.data = weight.data * 2
    elif change == "loaded":
        state = adapter.state_dict()
        name = next(name for name in state if name.endswith("meta_mlp.fc1.weight"))
        adapter.load_state_dict({**state, name: state[name] * 2})
    else:
        meta.fc1.weight = torch.nn.Parameter(weight * 2)
    assert_fresh(adapter)
    assert not torch.equal(before[0], adapter(image(64, 96))[0])


def test_a_training_step_is_seen(adapter: BackboneAdapter) -> None:
    with torch.no_grad():
        adapter(image(64, 96))
    adapter.train()
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    sum(feature_map.square().mean() for feature_map in adapter(image(64, 96))).backward()
    optimizer.step()
    adapter.eval()
    with torch.no_grad():
        assert_fresh(adapter)


def test_gradients_reach_the_parameters_after_a_pass_without(adapter: BackboneAdapter) -> None:
    with torch.no_grad():
        adapter(image(64, 96))
    adapter(image(64, 96))[0].sum().backward()
    assert metas(adapter)[0].fc1.weight.grad is not None


@torch.no_grad()
def test_autocast_keeps_its_own() -> None:
    reuse, layer = Memo(), torch.nn.Linear(3, 3)

    def result() -> torch.Tensor:
        return reuse.get("key", list(layer.parameters()), lambda: layer(torch.ones(3)))

    assert result().dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert result().dtype == torch.bfloat16
    assert result().dtype == torch.float32


@torch.no_grad()
def test_what_torch_counts_no_changes_to_is_computed_each_time() -> None:
    with torch.inference_mode():
        weight = torch.ones(1)
    memo, calls = Memo(), []
    for _ in range(2):
        memo.get("key", [weight], lambda: calls.append(0) or torch.zeros(1))
    assert len(calls) == 2


@torch.no_grad()
def test_the_memory_is_small() -> None:
    reuse, weight = Memo(limit=2), torch.ones(1)
    calls = []

    def ask(key: int) -> None:
        reuse.get(key, [weight], lambda: calls.append(key) or torch.zeros(1))

    for key in (1, 2, 1, 3, 1, 2):
        ask(key)
    assert calls == [1, 2, 3, 2]  # 2 was the one used longest ago when 3 came
