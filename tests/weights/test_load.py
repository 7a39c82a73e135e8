"""What is loaded, what is resized as timm does it, and everything for which a checkpoint is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_checkpoints import (
    PCPVT,
    SVT,
    TWINS,
    VIT,
    StateDict,
    assert_holds,
    below,
    load_twins,
    save,
    timm_model,
    twins,
    vit,
)
from small_checkpoints import with_norms as dense
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import nn
from zoo import CONVIT, SWIN_CR, TOKENS, ZOO, Spec, image, randomise

import adapters
from adapters.weights import load as weights
from adapters.weights.source import Source

MODEL = twins().state_dict()


@pytest.fixture(name="told")
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged."""
    lines: list[str] = []
    monkeypatch.setattr(weights, "log", lambda message, _: lines.append(message))
    return lines


def changed(**tensors: Any) -> StateDict:
    """The small Twins' state dict with other tensors under some names (``__`` for a dot); None takes one away."""
    state = {**MODEL, **{key.replace("__", "."): tensor for key, tensor in tensors.items()}}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


# Every family, from timm's own checkpoint and from this package's.


@pytest.mark.parametrize("spec", ZOO, ids=str)
def test_every_family_loads_timms_checkpoint_and_its_own(tmp_path: Path, spec: Spec) -> None:
    model = timm_model(spec.model_name, dict(spec.options.get("trunk", {})))
    save_file(model.state_dict(), str(tmp_path / "a.safetensors"))
    adapter = spec.build(weights=str(tmp_path / "a.safetensors"))
    adapter.init_weights()
    assert_holds(adapter, model.state_dict())
    saved = {key: tensor.clone() for key, tensor in randomise(adapter, seed=5).state_dict().items()}
    path = save({"state_dict": below(saved, "backbone.")}, tmp_path / "detector.pth")
    weights.load(randomise(adapter, seed=6), Source(path))
    state = adapter.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in saved.items())


def test_a_pyramid_inside_the_adapter_starts_at_random_and_that_is_said(tmp_path: Path, told: list[str]) -> None:
    path = save(vit().state_dict(), tmp_path / "a.pth")
    pyramid = {"type": "SimpleFeaturePyramid", "out_channels": 24}
    adapter = adapters.create_adapter(VIT, weights=path, trunk=TOKENS, pyramid=pyramid)
    assert f"; {len(adapter.pyramid.state_dict())} of pyramid.* start at random, as it holds none" in told[0]
    bare = save(adapter.state_dict(), tmp_path / "b.pth")
    adapters.create_adapter(VIT, weights=bare, trunk=TOKENS)
    assert f"left out {len(adapter.pyramid.state_dict())} (a pyramid that this adapter has not" in told[1]


# Refused: missing, unexpected, mis-shaped, not finite. The classifier and pruned layers do not count.


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(blocks__0__0__norm1__weight=None), r"missing +blocks\.0\.0\.norm1\.weight +nothing like it"),
        (
            changed(blocks__0__0__norm1__weight=None, blocks__0__0__norm1__wieght=torch.ones(8)),
            r"(?s)unexpected +blocks\.0\.0\.norm1\.wieght +nearest: blocks\.0\.0\.norm1\.weight"
            r".*missing +blocks\.0\.0\.norm1\.weight +nearest: blocks\.0\.0\.norm1\.wieght",
        ),
        (
            changed(blocks__0__0__norm1__weight=torch.ones(9)),
            r"shape +trunk\.blocks\.0\.0\.norm1\.weight +\(9,\) in the checkpoint, \(8,\) in the model",
        ),
        (changed(blocks__0__0__norm1__weight=torch.full((8,), torch.nan)), r"norm1\.weight +holds NaN or infinity"),
        (changed(blocks__0__0__norm1__weight=torch.full((8,), torch.inf)), r"norm1\.weight +holds NaN or infinity"),
        (changed(blocks__0__0__norm1__weight=torch.ones(8, dtype=torch.int8)), r"torch\.int8 in the checkpoint"),
        (changed(more__weight=torch.ones(8)), r"unexpected +more\.weight"),
        ({key: torch.full_like(tensor, torch.nan) for key, tensor in MODEL.items()}, "122 problems, 0 of 122"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path: Path, state: StateDict, message: str) -> None:
    adapter = adapters.TimmAdapter(SVT, weights=save(state, tmp_path / "a.pth"), trunk=TWINS)
    before = {key: tensor.clone() for key, tensor in adapter.trunk.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        adapter.init_weights()
    assert "a.pth' does not fit twins_svt_small: " in str(caught.value)
    assert_holds(adapter, before)


@pytest.mark.parametrize(
    "state",
    [
        changed(head__weight=None, head__bias=None, norm__weight=None, norm__bias=None),
        changed(head__weight=torch.ones(21, 32), head__bias=torch.ones(21)),
        changed(head__weight=torch.full((1000, 32), torch.nan)),
    ],
)
def test_the_classifier_does_not_matter(tmp_path: Path, state: StateDict) -> None:
    assert_holds(load_twins(save(state, tmp_path / "a.pth")), MODEL)


def test_layers_above_the_last_map_do_not_matter(tmp_path: Path, told: list[str]) -> None:
    adapter = load_twins(save(MODEL, tmp_path / "a.pth"), out_indices=(0, 1))
    assert_holds(adapter, MODEL)
    assert "(not needed for these maps: patch_embeds.2.proj.weight, patch_embeds.2.proj.bias, ...)" in told[0]
    whole = adapters.TimmAdapter(SVT, weights=save(adapter.state_dict(), tmp_path / "b.pth"), trunk=TWINS)
    with pytest.raises(ValueError, match=r"missing +patch_embeds\.2\.proj\.weight"):
        whole.init_weights()


def test_half_precision_is_widened(tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in MODEL.items()}
    adapter = load_twins(save(half, tmp_path / "a.pth"))
    assert_holds(adapter, {key: tensor.float() for key, tensor in half.items()})


# Norms after the stages.


def test_norms_after_the_stages_need_a_place(tmp_path: Path) -> None:
    path = save(dense(MODEL), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"stage_norms\.0\.weight +a norm after each stage: .* with stage_norm=True"):
        load_twins(path)
    adapter = load_twins(path, stage_norm=True)
    norms = dense({})
    assert len(norms) == 8
    for key, tensor in norms.items():
        assert torch.equal(adapter.state_dict()[key.replace("norm_list", "stage_norms")], tensor)
    partial = {key: tensor for key, tensor in dense(MODEL).items() if key != "norm_list.2.bias"}
    with pytest.raises(ValueError, match=r"1 problem,.*\n +missing +stage_norms\.2\.bias"):
        load_twins(save(partial, tmp_path / "b.pth"), stage_norm=True)


def test_a_dense_model_starts_from_a_classifier(tmp_path: Path, told: list[str]) -> None:
    """That is how the dense models of the paper were trained."""
    adapter = load_twins(save(MODEL, tmp_path / "a.pth"), stage_norm=True)
    assert_holds(adapter, MODEL)
    assert "; 8 of stage_norms.* start at scale 1 and shift 0, as it holds none" in told[0]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in adapter.stage_norms)


def test_norms_of_stages_that_are_not_asked_for(tmp_path: Path) -> None:
    path = save(dense(MODEL), tmp_path / "a.pth")
    adapter = load_twins(path, stage_norm=True, out_indices=(0, 1))
    assert torch.equal(adapter.stage_norms[1].bias, dense({})["norm_list.1.bias"])


# Channels of the image.


@pytest.mark.parametrize(
    ("name", "channels"),
    [(SVT, 1), (SVT, 4), (SVT, 8), ("resnet18", 1), (VIT, 8), ("convit_tiny", 4), ("swinv2_cr_tiny_224", 4)],
)
def test_other_channels_are_adapted_as_timm_does(tmp_path: Path, name: str, channels: int) -> None:
    small: dict[str, Any] = {
        SVT: TWINS,
        VIT: TOKENS,
        "convit_tiny": CONVIT,
        "swinv2_cr_tiny_224": SWIN_CR,
        "resnet18": {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)},
    }
    path = tmp_path / "a.pth"
    save(timm_model(name, small[name]).state_dict(), path)
    adapter = adapters.create_adapter(name, weights=str(path), trunk=small[name], in_channels=channels).eval()
    overlay = {"file": str(path), "hf_hub_id": None, "url": None}
    reference = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=channels, **small[name]
    )
    assert_holds(adapter, reference.state_dict())
    assert adapter(image(64, 64, channels=channels))[0].isfinite().all()


def test_other_channels_are_reported(tmp_path: Path, told: list[str]) -> None:
    adapter = load_twins(save(MODEL, tmp_path / "a.pth"), in_channels=4)
    name = "patch_embeds.0.proj.weight"
    assert torch.equal(adapter.trunk.state_dict()[name], adapt_input_conv(4, MODEL[name]))
    assert re.search(r":\n +resized +trunk\.patch_embeds\.0\.proj\.weight +\(8, 3, 4, 4\) -> \(8, 4, 4, 4\)$", told[0])


def test_channels_that_cannot_be_adapted(tmp_path: Path) -> None:
    path = save(twins(in_chans=5).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"\(8, 5, 4, 4\) in the checkpoint.*build the adapter with the checkpoint's"):
        load_twins(path)
    assert load_twins(path, in_channels=5).in_channels == 5


# Position embeddings of another grid.

POSITIONED = {
    VIT: (TOKENS, 1),
    "convit_tiny": (CONVIT, 0),
    "eva02_tiny_patch14_224": (TOKENS, 1),
    "vit_small_patch14_reg4_dinov2": (TOKENS, 0),
    "deit_tiny_distilled_patch16_224": (TOKENS, 2),
}


@pytest.mark.parametrize(("name", "side"), [(name, 7 + 6 * number) for number, name in enumerate(POSITIONED)])
def test_square_grids_are_resampled_as_timm_does(tmp_path: Path, told: list[str], name: str, side: int) -> None:
    trunk, prefix = POSITIONED[name]
    native = timm.create_model(name, **trunk)
    patch, grid = native.patch_embed.patch_size[0], native.patch_embed.grid_size
    model = timm_model(name, trunk, img_size=side * patch)
    adapter = adapters.create_adapter(name, weights=save(model.state_dict(), tmp_path / "a.pth"), trunk=trunk)
    expected = resample_abs_pos_embed(model.pos_embed, grid, num_prefix_tokens=prefix)
    torch.testing.assert_close(adapter.trunk.pos_embed, expected)
    assert_holds(adapter, {**model.state_dict(), "pos_embed": adapter.trunk.pos_embed})
    assert re.search(r"resized +(trunk\.)?pos_embed", told[0])


@pytest.mark.parametrize(
    ("name", "sides"), [(name, (6, 10)) for name in POSITIONED] + [(VIT, (9, 16)), ("convit_tiny", (16, 9))]
)
def test_grids_that_are_not_square_are_resampled_from_their_size(
    tmp_path: Path, name: str, sides: tuple[int, int]
) -> None:
    """9 x 16 has as many patches as 12 x 12, so that its size must win over the count."""
    trunk, prefix = POSITIONED[name]
    native = timm.create_model(name, **trunk)
    patch, grid = native.patch_embed.patch_size[0], native.patch_embed.grid_size
    size = (sides[0] * patch, sides[1] * patch)
    model = timm_model(name, trunk, img_size=size)
    path = save(model.state_dict(), tmp_path / "a.pth")
    cfg = {"type": "Pretrained", "checkpoint": path, "img_size": size}
    adapter = adapters.create_adapter(name, init_cfg=cfg, trunk=trunk)
    expected = resample_abs_pos_embed(model.pos_embed, grid, sides, num_prefix_tokens=prefix)
    torch.testing.assert_close(adapter.trunk.pos_embed, expected)


def test_models_that_timm_resamples_otherwise(tmp_path: Path) -> None:
    """timm's builder of the FlexiViTs binds its filter to bilinear interpolation."""
    model = timm_model("flexivit_small", TOKENS, img_size=160)
    path = save(model.state_dict(), tmp_path / "a.pth")
    adapter = adapters.create_adapter("flexivit_small", weights=path, trunk=TOKENS)
    overlay = {"file": path, "hf_hub_id": None, "url": None}
    reference = timm.create_model("flexivit_small", pretrained=True, pretrained_cfg_overlay=overlay, **TOKENS)
    assert_holds(adapter, reference.state_dict())
    bicubic = resample_abs_pos_embed(model.pos_embed, (15, 15), num_prefix_tokens=0)
    assert not torch.allclose(adapter.trunk.pos_embed, bicubic, atol=1e-3)


def test_a_grid_that_nobody_names_is_refused(tmp_path: Path) -> None:
    path = save(vit(img_size=(96, 160)).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"\(1, 61, 48\) in the checkpoint.*no square grid.*img_size=\(H, W\)"):
        adapters.create_adapter(VIT, weights=path, trunk=TOKENS)
    cfg = {"type": "Pretrained", "checkpoint": path, "img_size": (96, 96)}
    with pytest.raises(ValueError, match=r"img_size=\(96, 96\) means a grid of 6 x 6 patches, but .* are 60"):
        adapters.create_adapter(VIT, init_cfg=cfg, trunk=TOKENS)


def test_another_patch_size_is_resampled_by_timms_filter(tmp_path: Path, told: list[str]) -> None:
    model = vit(patch_size=8, img_size=112)
    path = save(model.state_dict(), tmp_path / "a.pth")
    adapter = adapters.create_adapter(VIT, weights=path, trunk=TOKENS)
    overlay = {"file": path, "hf_hub_id": None, "url": None}
    reference = timm.create_model(VIT, pretrained=True, pretrained_cfg_overlay=overlay, **TOKENS)
    assert_holds(adapter, reference.state_dict())
    assert "resized  patch_embed.proj.weight  (48, 3, 8, 8) -> (48, 3, 16, 16)" in told[0]


# Old and foreign names, through timm's own filter; tables of a size of their own.


def test_old_swinv2_cr_checkpoints(tmp_path: Path, told: list[str]) -> None:
    model = timm_model("swinv2_cr_tiny_224", SWIN_CR)
    old: StateDict = {}
    for key, tensor in model.state_dict().items():
        # The filter's inverse: logit_scale = log(1 / tau).
        value = torch.exp(-tensor) if key.endswith("logit_scale") else tensor
        old[key.replace("logit_scale", "tau").replace("head.fc.", "head.")] = value
    old["stages.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    old["stages.0.blocks.1.attn.relative_coordinates_log"] = torch.zeros(49 * 49, 2)
    path = save({"state_dict": old}, tmp_path / "a.pth")
    adapter = adapters.create_adapter("swinv2_cr_tiny_224", weights=path, trunk=SWIN_CR)
    for key, tensor in adapter.trunk.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[key])
    assert "timm's names below 'state_dict.', through timm's filter" in told[0]
    assert "left out 2 (tables of a size of their own, rebuilt: stages.0.blocks.1.attn_mask" in told[0]


def test_old_convit_tables_are_rebuilt(tmp_path: Path, told: list[str]) -> None:
    model = timm_model("convit_tiny", CONVIT)
    state = {**model.state_dict(), "blocks.0.attn.rel_indices": torch.zeros(1, 196, 196, 3)}
    adapter = adapters.create_adapter("convit_tiny", weights=save(state, tmp_path / "a.pth"), trunk=CONVIT)
    assert_holds(adapter, state)
    assert "(tables of a size of their own, rebuilt: blocks.0.attn.rel_indices)" in told[0]


def test_the_authors_convnext_and_deit3_names(tmp_path: Path) -> None:
    """Names that only timm's filter knows, the second one bound to an option by the model's builder."""
    trunk = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    model = timm_model("convnext_atto", trunk)
    authors: StateDict = {}
    for key, tensor in model.state_dict().items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", key)
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        # timm's atto has 1 x 1 convolutions where the authors have linear layers.
        authors[name] = tensor.flatten(1) if "pwconv" in name and tensor.ndim == 4 else tensor
    stale = {key: tensor + 1 for key, tensor in authors.items()}
    for contents in ({"model": authors}, {"model": below(authors, "encoder.")}, {"model": stale, "model_ema": authors}):
        path = save(contents, tmp_path / "a.pth")
        assert_holds(adapters.create_adapter("convnext_atto", weights=path, trunk=trunk), model.state_dict())
    path = save({"model": authors, "state_dict": stale}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"2 backbones that fit equally well, below '(model|state_dict)\.'"):
        adapters.create_adapter("convnext_atto", weights=path, trunk=trunk)
    cfg = {"type": "Pretrained", "checkpoint": path, "prefix": "model"}
    assert_holds(adapters.create_adapter("convnext_atto", init_cfg=cfg, trunk=trunk), model.state_dict())

    deit = timm_model("deit3_small_patch16_224", TOKENS)
    authors = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): tensor for key, tensor in deit.state_dict().items()}
    assert any("gamma_1" in key for key in authors)
    path = save({"model": authors}, tmp_path / "b.pth")
    assert_holds(adapters.create_adapter("deit3_small_patch16_224", weights=path, trunk=TOKENS), deit.state_dict())


def test_a_filter_is_found_where_it_has_another_name(tmp_path: Path) -> None:
    trunk = {"block_config": (2, 2, 2, 2), "growth_rate": 8}
    model = timm_model("densenet121", trunk)
    torchvisions = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): tensor
        for key, tensor in model.state_dict().items()
    }
    assert torchvisions.keys() != model.state_dict().keys()
    path = save(torchvisions, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter("densenet121", weights=path, trunk=trunk), model.state_dict())


def test_a_checkpoint_of_the_other_twins(tmp_path: Path) -> None:
    path = save(twins(PCPVT).state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"unexpected +blocks\.0\.0\.attn\.q\.weight +nearest: blocks\.0\.0\.attn\.qkv"
    ):
        load_twins(path)


def test_batch_norms_need_their_statistics(tmp_path: Path) -> None:
    trunk = {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)}
    state = timm_model("resnet18", trunk).state_dict()
    counted = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    adapter = adapters.create_adapter("resnet18", weights=save(counted, tmp_path / "a.pth"), trunk=trunk)
    assert all(
        torch.equal(module.running_mean, state[f"{name}.running_mean"])
        for name, module in adapter.trunk.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    )
    del counted["bn1.running_var"]
    with pytest.raises(ValueError, match=r"missing +bn1\.running_var"):
        adapters.create_adapter("resnet18", weights=save(counted, tmp_path / "b.pth"), trunk=trunk)
