"""The pooled embedding and the top-5 are those of timm's own model, from the pass that gives the maps."""

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from zoo import TOKENS, TWINS, ZOO, Spec, image, randomise

import adapters
from adapters.extraction.building import build_extractor, build_with_head
from adapters.extraction.options import ExtractionOptions
from adapters.kernels import long_attention

EVERYTHING = ExtractionOptions(outputs=("pyramid", "embedding", "top5"))
CLASSIFIED = [spec for spec in ZOO if not spec.options.get("stage_norm")]

#: Models whose maps come from a pass of another kind than their classifier's.
APART = {"levit", "pit"}


def timm_model(spec: Spec) -> torch.nn.Module:
    """timm's model itself, randomised, with a classifier where its weights come without one."""
    torch.manual_seed(0)
    return randomise(timm.create_model(spec.model_name, **{"num_classes": 10, **spec.options.get("trunk", {})})).eval()


@pytest.mark.parametrize("spec", CLASSIFIED, ids=str)
@torch.no_grad()
def test_embedding_and_top5_equal_timm_at_the_native_size(spec: Spec) -> None:
    """With levels that leave the last stage out, too."""
    options = dict(spec.options)
    options["trunk"] = dict(spec.options.get("trunk", {}), num_classes=10)
    model = timm_model(spec)
    # Few classes, though their number is not for a user to set.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.base.check_trunk_arguments", lambda _: None)
        if spec.name in APART:
            with pytest.raises(ValueError, match="cannot come from the pass that gives its maps"):
                build_with_head({"model_name": spec.model_name, **options}, outputs=("embedding", "top5"))
            return
        adapter = build_with_head({"model_name": spec.model_name, **options}, outputs=("embedding", "top5")).eval()
    adapter.trunk.load_state_dict(model.state_dict())
    side = model.pretrained_cfg["input_size"][-1]
    x = image(side, side)
    maps, final = adapter.forward_with_head(x)
    features = model.forward_features(x)
    expected = model.forward_head(features, pre_logits=True)
    assert expected.std() > 1e-3
    torch.testing.assert_close(adapter.trunk.forward_head(final, pre_logits=True), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapter.trunk.forward_head(final), model(x), rtol=1e-4, atol=1e-4)
    plain = adapters.TimmAdapter(spec.model_name, **spec.options).eval()
    plain.load_state_dict({key: value for key, value in adapter.state_dict().items() if key in plain.state_dict()})
    for with_head, without in zip(maps, plain(x), strict=True):
        torch.testing.assert_close(with_head, without, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_another_size_is_that_of_timm_on_the_padded_image() -> None:
    """Pads take part in the pooling, as they would in timm."""
    adapter = build_with_head({"model_name": "twins_svt_small", "trunk": TWINS}, outputs=("embedding", "top5")).eval()
    x = image(50, 70)
    maps, final = adapter.forward_with_head(x)
    padded = torch.nn.functional.pad(x, (0, 26, 0, 14))
    features = adapter.trunk.forward_features(padded)
    expected = adapter.trunk.forward_head(features, pre_logits=True)
    torch.testing.assert_close(adapter.trunk.forward_head(final, pre_logits=True), expected, rtol=1e-4, atol=1e-4)
    assert maps[3].shape[2:] == (2, 3)


def test_a_copy_works_in_another_process() -> None:
    adapter = build_with_head({"model_name": "vit_small_patch16_224", "trunk": TOKENS}, outputs=("embedding",)).eval()
    twin = pickle.loads(pickle.dumps(adapter))
    x = image(32, 32)
    with torch.no_grad():
        (maps, final), (twin_maps, twin_final) = adapter.forward_with_head(x), twin.forward_with_head(x)
    assert torch.equal(maps[-1], twin_maps[-1])
    assert torch.equal(final, twin_final)
    assert type(twin) is type(adapter)


def test_the_classifier_is_loaded_as_strictly_as_all_else(tmp_path: Path) -> None:
    """A checkpoint without one gives the embedding and no top-5."""
    model = randomise(timm.create_model("vit_small_patch16_224", num_classes=1000, **TOKENS))
    config = {"model_name": "vit_small_patch16_224", "trunk": TOKENS}
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    whole = build_extractor(config, EVERYTHING, str(tmp_path / "whole.safetensors"))
    assert torch.equal(whole.adapter.trunk.head.weight, model.head.weight)
    headless = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    save_file(headless, tmp_path / "headless.safetensors")
    with pytest.raises(ValueError, match=r"missing +head\.weight"):
        build_extractor(config, EVERYTHING, str(tmp_path / "headless.safetensors"))
    embedding = ExtractionOptions(outputs=("embedding",))
    build_extractor(config, embedding, str(tmp_path / "headless.safetensors"))


def test_models_that_have_no_head_say_so() -> None:
    with pytest.raises(ValueError, match="has no classifier: leave 'top5' out"):
        build_with_head({"model_name": "vit_small_patch14_dinov2", "trunk": TOKENS}, outputs=("embedding", "top5"))
    with pytest.raises(ValueError, match="no norms after its stages"):
        build_with_head(
            {"model_name": "twins_svt_small", "stage_norm": True, "trunk": TWINS}, outputs=("embedding", "top5")
        )


def test_an_adapter_says_how_to_keep_the_head() -> None:
    with pytest.raises(ValueError, match="build the adapter with keep_head=True"):
        adapters.TimmAdapter("vit_small_patch16_224", trunk=TOKENS).forward_with_head(image(32, 32))
    with pytest.raises(ValueError, match="exclude each other"):
        adapters.TimmAdapter("twins_svt_small", trunk=TWINS, stage_norm=True, keep_head=True)
    built = adapters.TimmAdapter("vit_small_patch16_224", trunk=TOKENS, keep_head=True)
    assert build_extractor(built, EVERYTHING).adapter is built
    assert built.pruned_keys == frozenset()


def state_of(adapter: torch.nn.Module) -> dict[str, object]:
    """The names of every module's attributes and the number of its hooks, and the values of all tensors."""
    names: dict[str, object] = {
        name: (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in adapter.named_modules()
    }
    return names | {key: tensor.clone() for key, tensor in adapter.state_dict().items()}


@pytest.mark.parametrize("spec", CLASSIFIED, ids=str)
@torch.no_grad()
def test_a_pass_leaves_nothing_behind(spec: Spec) -> None:
    """A copy made after a pass of one size gives at another size what the adapter gives."""
    adapter = spec.build(keep_head=True)
    before = state_of(adapter)
    adapter.forward_with_head(image(64, 96))
    after = state_of(adapter)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name
    x = image(96, 64)
    (maps, final), (twin_maps, twin_final) = (a.forward_with_head(x) for a in (adapter, copy.deepcopy(adapter)))
    assert all(map(torch.equal, maps, twin_maps))
    assert_same_features(final, twin_final)


def assert_same_features(final: object, other: object) -> None:
    """Final features are a tensor, or a tuple of them where a model has two branches or a distillation token."""
    finals, others = ((x,) if isinstance(x, torch.Tensor) else tuple(x) for x in (final, other))
    assert len(finals) == len(others)
    assert all(map(torch.equal, finals, others))


@torch.no_grad()
def test_changed_biases_are_seen_in_eval_mode() -> None:
    """timm's LeViT keeps them on its modules between passes."""
    spec = next(spec for spec in ZOO if spec.name == "levit")
    adapter = spec.build(keep_head=True)
    x = image(64, 64)
    before, _ = adapter.forward_with_head(x)
    for name, parameter in adapter.named_parameters():
        if name.endswith("attention_biases"):
            parameter.add_(torch.linspace(0, 5, parameter.numel()).view_as(parameter))
    maps, final = adapter.forward_with_head(x)
    fresh = spec.build(keep_head=True)
    fresh.load_state_dict(adapter.state_dict())
    fresh_maps, fresh_final = fresh.forward_with_head(x)
    assert not torch.equal(maps[-1], before[-1])
    assert all(map(torch.equal, maps, fresh_maps))
    assert_same_features(final, fresh_final)


@pytest.mark.parametrize("name", ["vit", "beit", "twins_svt", "swinv2_cr", "convit", "convnext"])
@torch.no_grad()
def test_maps_in_bfloat16_are_those_without_the_head(name: str) -> None:
    spec = next(spec for spec in ZOO if spec.name == name)
    x = image(64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        maps, final = spec.build(keep_head=True).forward_with_head(x)
        expected = spec.build()(x)
    assert final.isfinite().all()
    assert all(map(torch.equal, maps, expected))


@pytest.mark.parametrize("name", ["vit", "vit_rope_reg", "beit"])
@torch.no_grad()
def test_long_attention_in_bfloat16_takes_our_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    attend = long_attention.attend
    monkeypatch.setattr(long_attention, "FUSED_BF16_ATTENTION_IS_SLOW", True)
    monkeypatch.setattr(long_attention, "FEWEST_PIXELS", 0)
    monkeypatch.setattr(long_attention, "attend", lambda *a, **k: calls.append(1) or attend(*a, **k))
    adapter = next(spec for spec in ZOO if spec.name == name).build(keep_head=True)
    with torch.autocast("cpu", torch.bfloat16):
        adapter.forward_with_head(image(64, 64))
    assert len(calls) == len(adapter.trunk.blocks)
