"""Checkpoints with low-rank factors: merged for a plain adapter, taken as they are by one with factors, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ZOO, image

import adapters
from adapters.commands import convert
from adapters.weights.factors import settle_factors

VIT = next(spec for spec in ZOO if spec.name == "vit")


def tuned(kind: str = "LoRA", seed: int = 0, **more: Any) -> adapters.BackboneAdapter:
    torch.manual_seed(seed)
    adapter = adapters.TimmAdapter(VIT.model_name, **VIT.options, peft=dict(type=kind, r=2, alpha=5, **more))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return adapter.eval()


def maps(adapter: adapters.BackboneAdapter) -> tuple[Tensor, ...]:
    with torch.no_grad():
        outcome: tuple[Tensor, ...] = adapter.eval()(image(40, 56))
    return outcome


def load(weights: Path, **options: Any) -> adapters.BackboneAdapter:
    return adapters.create_adapter(VIT.model_name, **VIT.options, weights=str(weights), **options)


def assert_close(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_a_detectors_checkpoint_is_merged_or_taken_whole(kind: str, tmp_path: Path) -> None:
    source, second = tuned(kind), tuned(kind, seed=1)
    path = tmp_path / "detector.pth"
    whole = {
        container: {f"{before}{key}": tensor for key, tensor in one.state_dict().items()}
        for container, before, one in (
            ("state_dict", "backbone.", source),
            ("ema_state_dict", "module.backbone.", second),
        )
    }
    torch.save({"state_dict": whole["state_dict"]}, path)
    assert_close(maps(load(path)), maps(source))
    again = load(path, peft=dict(type=kind, r=2, alpha=5))
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in source.state_dict().items())
    convert.main([str(path), str(tmp_path / "merged.safetensors"), "--to", "timm", "--merge"])
    assert_close(maps(load(tmp_path / "merged.safetensors")), maps(source))
    torch.save(whole, path)  # of which the first holds the averages
    assert_close(maps(load(path)), maps(source))


def test_other_options_than_the_trainings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuned.pth"
    torch.save(tuned().state_dict(), path)
    for options, problem in (
        (dict(r=2, alpha=6), r"value +trunk.lora_scaling +2\.5 in the checkpoint, 3 in the model: give peft=\.\.\."),
        (
            dict(r=4, alpha=10),
            r"shape +trunk.blocks.0.attn.qkv.lora_A.default.weight +\(2, 48\) in the checkpoint, \(4,",
        ),
        (dict(r=2, alpha=5, targets=["qkv"]), r"unexpected +.*attn.proj.lora_A.default.weight +of a layer that peft="),
        (dict(r=2, alpha=5, targets="all"), r"missing +blocks.0.mlp.fc1.lora_A.default.weight"),
        (dict(r=2, alpha=5, type="DoRA"), r"missing +blocks.0.attn.qkv.lora_magnitude_vector"),
    ):
        with pytest.raises(ValueError, match=problem):
            load(path, peft=options)


def test_plain_weights_start_factors_without_effect(tmp_path: Path) -> None:
    plain = VIT.build()
    torch.save(plain.trunk.state_dict(), tmp_path / "plain.pth")
    assert_close(maps(load(tmp_path / "plain.pth", peft=dict(type="DoRA", r=2))), maps(plain))


def test_factors_without_their_scaling_are_not_guessed(tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in tuned().state_dict().items() if "scaling" not in key}
    settled, count = settle_factors(state, merged=True)
    assert (count, len(settled)) == (0, len(state))
    torch.save(state, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="a low-rank adapter that is not merged"):
        load(tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="holds no low-rank factors that this package has saved: leave out --merge"):
        convert.main([str(tmp_path / "foreign.pth"), str(tmp_path / "x.pth"), "--to", "timm", "--merge"])


def test_names_that_look_like_a_base_layer_stay_the_models(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = dict(out_indices=(0, 1, 2))
    source = adapters.TimmAdapter("dla46x_c", **options, peft=dict(targets=["conv1"], r=2)).eval()
    torch.nn.init.normal_(source.trunk.level2.tree1.conv1.lora_B.default.weight)
    assert any("trunk.base_layer." in key for key in source.state_dict())
    torch.save(
        {"state_dict": {f"backbone.{key}": tensor for key, tensor in source.state_dict().items()}}, tmp_path / "a.pth"
    )
    plain = adapters.create_adapter("dla46x_c", **options, weights=str(tmp_path / "a.pth"))
    assert_close(maps(plain), maps(source))
