"""Low-rank adaptation by the library peft: it starts as the identity, every part of it learns, and merging keeps it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from zoo import WITHOUT_LINEAR_LAYERS, Spec, image, models, models_without

from adapters import BackboneAdapter

#: Models whose attention has another layer in the place of ``qkv``, or that have none.
WITHOUT_QKV = {*WITHOUT_LINEAR_LAYERS, "twins_pcpvt", "convit_local_only", "levit", "pvt", "mambaout"}
#: Every third of the models whose MLPs have an ``fc1``.
WITH_FC1 = (
    *("twins_svt", "twins_svt_two_stages", "vit", "deit_distilled", "dinov3", "convit_local_only", "vit_taps", "beit"),
    *("crossvit", "swinv2", "edgenext", "mambaout", "coat"),
)


def linear_layers(adapter: BackboneAdapter, last: str | None = None) -> list[str]:
    """Names of the linear layers, of all or of those whose name ends so."""
    names = [name for name, module in adapter.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in names if last is None or name.rpartition(".")[2] == last]


def assert_close(maps: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(maps, expected, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


def check(adapter: BackboneAdapter, targets: list[str], use_dora: bool = False) -> None:
    plain, x = copy.deepcopy(adapter), image(40, 56)
    with torch.no_grad():
        expected = plain(x)
    tuned = get_peft_model(adapter, LoraConfig(r=2, target_modules=targets, use_dora=use_dora))
    assert_close(tuned.eval()(x), expected)
    sum(feature_map.square().mean() for feature_map in tuned(x)).backward()
    learning = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in learning.items() if parameter.grad is None] == []
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.add_(0.1 * torch.randn_like(parameter) if "lora_B" in name else 0.1 * parameter)
        after = tuned.eval()(x)
        assert max((one - other).norm() / other.norm() for one, other in zip(after, expected, strict=True)) > 1e-4
        with tuned.disable_adapter():
            assert_close(tuned(x), expected)
        merged = tuned.merge_and_unload()
        assert_close(merged(x), after)
    plain.load_state_dict(merged.state_dict())


@pytest.mark.parametrize(
    ("spec", "last"),
    [(spec, None) for spec in models(*WITHOUT_LINEAR_LAYERS)] + [(spec, "qkv") for spec in models(*WITHOUT_QKV)],
    ids=str,
)
def test_those_left_out_have_no_such_layer(spec: Spec, last: str | None) -> None:
    assert linear_layers(spec.build(), last) == []


@pytest.mark.parametrize("spec", models_without(WITHOUT_LINEAR_LAYERS), ids=str)
def test_lora_on_all_linear_layers(spec: Spec) -> None:
    adapter = spec.build()
    check(adapter, linear_layers(adapter))


@pytest.mark.parametrize("spec", models_without(WITHOUT_QKV), ids=str)
def test_dora_on_qkv(spec: Spec) -> None:
    adapter = spec.build()
    check(adapter, linear_layers(adapter, "qkv"), use_dora=True)


@pytest.mark.parametrize("spec", models(*WITH_FC1), ids=str)
def test_lora_on_fc1_which_a_kernel_may_compute(spec: Spec) -> None:
    adapter = spec.build()
    check(adapter, linear_layers(adapter, "fc1"))
