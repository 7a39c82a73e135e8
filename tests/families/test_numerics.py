"""The maps are those of timm built for the very size, to 1e-4 relative, with every parameter randomised."""

import pytest
import torch
from lab.randomise import randomise
from references import (
    build_timm,
    convit_on_grid,
    copy_weights,
    crop,
    masked_swinv2_cr,
    masked_twins_window_attention,
    pad,
    relative_error,
    timm_maps,
)
from torch import Tensor
from zoo import CONVIT, SWIN_CR, TWINS, ZOO, Spec, image

import adapters

TOLERANCE = 1e-4
SIZES = ((106, 150), (64, 96), (37, 140), (5, 3))
COMPARED = [spec for spec in ZOO if spec.compares]


def reference_maps(spec: Spec, adapter: adapters.BackboneAdapter, x: Tensor) -> list[Tensor]:
    """What the reference table of the design says for this family and size."""
    state = adapter.trunk.state_dict()
    trunk = dict(spec.options.get("trunk", {}))
    norm = bool(spec.options.get("out_norm", False))
    if spec.family is adapters.TwinsAdapter or spec.family is adapters.GenericAdapter:
        model = copy_weights(build_timm(spec.model_name, **trunk), state)
        return timm_maps(model, pad(x, 32), adapter.out_indices, norm)
    if spec.family is adapters.SwinV2CrAdapter:
        model = copy_weights(build_timm(spec.model_name, **trunk), state)
        maps = masked_swinv2_cr(model, pad(x, 4), window=7)
        return [maps[index] for index in adapter.out_indices]
    patch = adapter.pad_multiple
    x = pad(x, patch)
    if spec.family is adapters.ConViTAdapter:
        model = build_timm(spec.model_name, **trunk)
        grid = (x.shape[-2] // patch, x.shape[-1] // patch)
        native = state["pos_embed"]
        model.pos_embed = torch.nn.Parameter(torch.zeros(1, grid[0] * grid[1], native.shape[-1]))
        model.patch_embed.grid_size = grid
        model = convit_on_grid(copy_weights(model, state), grid)
        return timm_maps(model, x, adapter.out_indices, norm)
    if "gap" in spec.model_name:
        norm_layer, trunk["final_norm" if "rope" not in spec.model_name else "use_post_transformer_norm"] = (
            "fc_norm",
            True,
        )
        trunk["fc_norm" if "rope" not in spec.model_name else "use_fc_norm"] = False
        state = {key.replace(norm_layer, "norm"): value for key, value in state.items()}
    model = copy_weights(build_timm(spec.model_name, img_size=tuple(x.shape[-2:]), **trunk), state)
    return timm_maps(model, x, adapter.out_indices, norm)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("spec", COMPARED, ids=str)
@torch.no_grad()
def test_equals_the_reference(spec: Spec, size: tuple[int, int]) -> None:
    adapter = spec.build()
    x = image(*size)
    for actual, expected, level in zip(adapter(x), reference_maps(spec, adapter, x), adapter.levels, strict=True):
        assert relative_error(actual, crop(expected, size, level.stride)) < TOLERANCE


@pytest.mark.parametrize("size", [(224, 448), (448, 224), (28, 28), (20, 12)], ids=str)
@torch.no_grad()
def test_swinv2_cr_equals_timm_built_for_the_size(size: tuple[int, int]) -> None:
    """Where timm is right: each stage's grid a multiple of the window, or no larger."""
    adapter = next(spec for spec in ZOO if spec.name == "swinv2_cr").build()
    model = build_timm("swinv2_cr_tiny_224", img_size=size, window_size=7, **SWIN_CR)
    copy_weights(model, adapter.trunk.state_dict())
    for actual, expected in zip(adapter(image(*size)), timm_maps(model, image(*size), range(4), False), strict=True):
        assert relative_error(actual, expected) < TOLERANCE


@torch.no_grad()
def test_swinv2_cr_masks_wrapped_tokens_as_timm_does() -> None:
    """-100 and not minus infinity: with a large logit scale the two differ."""
    adapter = next(spec for spec in ZOO if spec.name == "swinv2_cr").build()
    for name, parameter in adapter.trunk.named_parameters():
        if name.endswith("logit_scale"):
            parameter.fill_(6.0)
        if name.endswith("meta_mlp.fc2.weight"):
            parameter.mul_(60)
    model = build_timm("swinv2_cr_tiny_224", img_size=(224, 224), window_size=7, **SWIN_CR)
    copy_weights(model, adapter.trunk.state_dict())
    x = image(224, 224)
    for actual, expected in zip(adapter(x), timm_maps(model, x, range(4), False), strict=True):
        assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("size", [(72, 72), (100, 52), (56, 84)], ids=str)
@pytest.mark.parametrize("window_padding", ["zero", "mask", "mmseg"])
@torch.no_grad()
def test_twins_window_padding(window_padding: str, size: tuple[int, int]) -> None:
    """``zero`` is timm's, ``mask`` never attends a pad, ``mmseg`` masks only when both pads are non-zero."""
    adapter = adapters.create_adapter("twins_svt_small", trunk=TWINS, window_padding=window_padding)
    attn = next(module for module in adapter.trunk.modules() if hasattr(module, "ws")).eval()
    plain = next(module for module in build_timm("twins_svt_small", **TWINS).modules() if hasattr(module, "ws")).eval()
    plain.load_state_dict(attn.state_dict())
    grid = (size[0] // 4, size[1] // 4)
    tokens = torch.randn(2, grid[0] * grid[1], 16)
    zero, mask = plain(tokens, grid), masked_twins_window_attention(plain, tokens, grid)
    both_padded = grid[0] % 7 != 0 and grid[1] % 7 != 0
    expected = mask if window_padding == "mask" or (window_padding == "mmseg" and both_padded) else zero
    assert relative_error(attn(tokens, grid), expected) < TOLERANCE
    if any(side % 7 for side in grid):
        assert relative_error(zero, mask) > 1e-2


@torch.no_grad()
def test_twins_stage_norm_feeds_the_next_stage() -> None:
    adapter = next(spec for spec in ZOO if spec.name == "twins_svt_dense").build(window_padding="zero")
    trunk = copy_weights(build_timm("twins_svt_small", **TWINS), adapter.trunk.state_dict())
    x = image(64, 96)
    stages = zip(
        trunk.patch_embeds, trunk.blocks, trunk.pos_block, adapter.stage_norms, adapter(image(64, 96)), strict=True
    )
    for embed, blocks, position, norm, actual in stages:
        x, size = embed(x)
        for depth, block in enumerate(blocks):
            x = block(x, size)
            x = position(x, size) if depth == 0 else x
        x = norm(x).transpose(1, 2).reshape(2, -1, *size)
        assert relative_error(actual, x) < TOLERANCE


@torch.no_grad()
def test_convit_equals_timm_on_a_square_grid() -> None:
    """The one case in which timm's own positions are right, without the table of the reference."""
    adapter = next(spec for spec in ZOO if spec.name == "convit").build()
    model = copy_weights(build_timm("convit_tiny", img_size=96, **CONVIT), adapter.trunk.state_dict())
    for actual, expected in zip(
        adapter(image(96, 96)), timm_maps(model, image(96, 96), adapter.out_indices, False), strict=True
    ):
        assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("spec", COMPARED, ids=str)
def test_gradients_equal_the_reference(spec: Spec) -> None:
    """The gradient of the image, at an awkward size."""
    adapter = spec.build()
    x = image(70, 100).requires_grad_()
    reference_x = x.detach().clone().requires_grad_()
    expected = [
        crop(feature_map, (70, 100), level.stride)
        for feature_map, level in zip(reference_maps(spec, adapter, reference_x), adapter.levels, strict=True)
    ]
    weights = [torch.randn_like(feature_map) for feature_map in expected]
    sum((w * f).sum() for w, f in zip(weights, adapter(x), strict=True)).backward()
    sum((w * f).sum() for w, f in zip(weights, expected, strict=True)).backward()
    assert relative_error(x.grad, reference_x.grad) < 1e-3


def test_a_final_norm_behind_the_pooling_is_applied_to_every_token() -> None:
    """BEiT's ``fc_norm`` stands where the means of tokens are; on maps it is the norm of each token."""
    beit = next(spec for spec in ZOO if spec.name == "beit")
    normed, plain = beit.build(out_norm=True), beit.build()
    randomise(normed.trunk.fc_norm, seed=1)
    for with_norm, without in zip(normed(image(97, 65)), plain(image(97, 65)), strict=True):
        expected = normed.trunk.fc_norm(without.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(with_norm, expected, rtol=1e-5, atol=1e-5)
    assert {f"trunk.fc_norm.{name}" for name in ("weight", "bias")} <= set(normed.state_dict())
