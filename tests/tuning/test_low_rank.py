"""An adapter with low-rank factors: what trains, what stays in eval mode, and that it computes what it did."""

import copy
import pickle
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import MORE, ZOO, Spec, image

import adapters
from adapters import BackboneAdapter
from adapters.trunk.layer_numbers import layer_numbers
from adapters.tuning.low_rank import LowRank

SPECS = {spec.name: spec for spec in (*ZOO, *MORE)}
FAMILIES = [
    *((name, "LoRA") for name in ("twins_svt_dense", "swinv2_cr", "dinov3", "vit_pyramid", "swin", "pit", "davit")),
    *((name, "DoRA") for name in ("vit", "convit", "convnext")),
]


def tuned(name: str, kind: str = "LoRA", **options: Any) -> BackboneAdapter:
    spec: Spec = SPECS[name]
    peft = dict(type=kind, r=2, targets="all", **options.pop("peft", {}))
    torch.manual_seed(3)
    return adapters.TimmAdapter(spec.model_name, **{**spec.options, **options, "peft": peft})


def factors_of(adapter: BackboneAdapter) -> LowRank:
    assert adapter.low_rank is not None
    return adapter.low_rank


def assert_close(maps: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    for one, other in zip(maps, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_training_changes_factors_and_what_is_new_alone(name: str, kind: str) -> None:
    plain = SPECS[name].build()
    adapter = tuned(name, kind)
    adapter.load_state_dict(plain.state_dict())
    x = image(40, 56)
    with torch.no_grad():
        assert_close(adapter.eval()(x), plain(x))
    adapter.train()
    fixed = {key: tensor.clone() for key, tensor in adapter.state_dict().items() if "lora_" not in key}
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        sum(feature_map.square().mean() for feature_map in adapter(x)).backward()
        optimiser.step()
    learning = {key: parameter for key, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert [key for key, parameter in learning.items() if parameter.grad is None] == []
    assert {key for key in learning if key.startswith("trunk.")} == {
        key for key in adapter.state_dict() if "lora_" in key and not key.endswith("lora_scaling")
    }
    assert {key for key in learning if not key.startswith("trunk.")} == {
        key for key, _ in plain.named_parameters() if not key.startswith("trunk.")
    }
    state = adapter.state_dict()
    assert [key for key, tensor in fixed.items() if key not in learning and not torch.equal(tensor, state[key])] == []
    with torch.no_grad():
        after = adapter.eval()(x)
    assert max((one - other).norm() / other.norm() for one, other in zip(after, plain(x), strict=True)) > 1e-4
    for twin in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert_close(twin(x), after)


def test_the_frozen_part_stays_in_eval_mode() -> None:
    adapter = tuned("resnet", drop_path_rate=0.1)
    adapter.train()
    norms = [module for module in adapter.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    with_norms = tuned("resnet", peft=dict(norms=True), frozen_stages=1)
    with_norms.train()
    names = {name for name, module in with_norms.named_modules() if isinstance(module, nn.BatchNorm2d)}
    training = {name for name in names if with_norms.get_submodule(name).training}
    assert training == {name for name in names if name.startswith(("trunk.layer2", "trunk.layer3", "trunk.layer4"))}
    statistics = factors_of(with_norms).trained_names(with_norms.trunk)
    assert {f"trunk.{name.removesuffix('.running_var')}" for name in statistics if "running_var" in name} == training
    vit = tuned("vit", trunk={**SPECS["vit"].options["trunk"], "pos_drop_rate": 0.5, "proj_drop_rate": 0.5})
    vit.train()
    assert not vit.trunk.pos_drop.training
    assert vit.trunk.blocks[0].attn.proj_drop.training


def test_norms_and_biases_train_on_request() -> None:
    adapter = tuned("vit", peft=dict(norms=True, biases=True), frozen_stages=1)
    learning = {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert not [name for name in learning if ".blocks.0." in name or "patch_embed" in name or "pos_embed" in name]
    assert {"trunk.blocks.1.norm1.weight", "trunk.blocks.1.attn.qkv.base_layer.bias"} <= learning
    assert "trunk.blocks.1.attn.qkv.base_layer.weight" not in learning
    told = factors_of(adapter).describe(adapter.trunk)
    assert "LoRA of rank 2, scaled by 2, in 12 layers (attn.qkv, attn.proj, mlp.fc1, mlp.fc2), norms, biases" in told
    count = sum(parameter.numel() for parameter in adapter.trunk.parameters() if parameter.requires_grad)
    assert f"{count:,} of the trunk's" in told


@pytest.mark.parametrize("name", ["twins_svt", "vit", "convnext"])
def test_recomputation_and_mixed_precision_give_the_same_gradients(name: str) -> None:
    plain = tuned(name)
    again = tuned(name, with_cp=True)
    state = {
        key: torch.randn_like(tensor) * 0.1 if "lora_B" in key else tensor for key, tensor in plain.state_dict().items()
    }
    gradients = []
    for adapter in (plain, again):
        adapter.load_state_dict(state)
        adapter.train()
        sum(feature_map.square().mean() for feature_map in adapter(image(40, 56))).backward()
        gradients.append({key: p.grad for key, p in adapter.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][key], gradients[1][key], rtol=1e-4, atol=1e-6) for key in gradients[0])
    with torch.autocast("cpu", torch.bfloat16):
        maps = plain(image(40, 56))
    sum(feature_map.float().square().mean() for feature_map in maps).backward()
    assert all(torch.isfinite(p.grad).all() for p in plain.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["vit", "swin", "pit"])
def test_layer_decay_counts_layers_as_it_does_without_factors(name: str) -> None:
    adapter, plain = tuned(name), SPECS[name].build()
    numbers, head = layer_numbers(adapter)
    expected, same = layer_numbers(plain)
    assert head == same
    names = factors_of(adapter).plain_names({key: torch.empty(0) for key in numbers}, "trunk.")
    for key, plain_key in zip(numbers, names, strict=True):
        owner = f"{plain_key.rpartition('.lora_')[0]}.weight" if ".lora_" in plain_key else plain_key
        assert numbers[key] == expected[owner], key


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"^low-rank tuning needs the library peft: pip install"):
        tuned("vit")
    SPECS["vit"].build()
