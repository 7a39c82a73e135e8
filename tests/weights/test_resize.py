"""Other channels and other grids of positions, as timm adapts them."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_checkpoints import SVT, TWINS, VIT, assert_holds, load_twins, save, timm_model, twins, vit
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from zoo import CONVIT, SWIN_CR, TOKENS, image

import adapters

MODEL = twins().state_dict()


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


def test_other_channels_are_reported(tmp_path: Path, logged: list[str]) -> None:
    adapter = load_twins(save(MODEL, tmp_path / "a.pth"), in_channels=4)
    name = "patch_embeds.0.proj.weight"
    assert torch.equal(adapter.trunk.state_dict()[name], adapt_input_conv(4, MODEL[name]))
    assert re.search(
        r":\n +resized +trunk\.patch_embeds\.0\.proj\.weight +\(8, 3, 4, 4\) -> \(8, 4, 4, 4\)$", logged[0]
    )


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
def test_square_grids_are_resampled_as_timm_does(tmp_path: Path, logged: list[str], name: str, side: int) -> None:
    trunk, prefix = POSITIONED[name]
    native = timm.create_model(name, **trunk)
    patch, grid = native.patch_embed.patch_size[0], native.patch_embed.grid_size
    model = timm_model(name, trunk, img_size=side * patch)
    adapter = adapters.create_adapter(name, weights=save(model.state_dict(), tmp_path / "a.pth"), trunk=trunk)
    expected = resample_abs_pos_embed(model.pos_embed, grid, num_prefix_tokens=prefix)
    torch.testing.assert_close(adapter.trunk.pos_embed, expected)
    assert_holds(adapter, {**model.state_dict(), "pos_embed": adapter.trunk.pos_embed})
    assert re.search(r"resized +(trunk\.)?pos_embed", logged[0])


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


def test_another_patch_size_is_resampled_by_timms_filter(tmp_path: Path, logged: list[str]) -> None:
    model = vit(patch_size=8, img_size=112)
    path = save(model.state_dict(), tmp_path / "a.pth")
    adapter = adapters.create_adapter(VIT, weights=path, trunk=TOKENS)
    overlay = {"file": path, "hf_hub_id": None, "url": None}
    reference = timm.create_model(VIT, pretrained=True, pretrained_cfg_overlay=overlay, **TOKENS)
    assert_holds(adapter, reference.state_dict())
    assert "resized  patch_embed.proj.weight  (48, 3, 8, 8) -> (48, 3, 16, 16)" in logged[0]
