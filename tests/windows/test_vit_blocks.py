"""Blocks in windows, against each window run by itself through timm's block."""

from unittest import mock

import pytest
import torch
from lab.compare import relative_error
from torch import Tensor
from zoo import ZOO, Spec, image

import adapters

SPECS = [spec for spec in ZOO if spec.family is adapters.VisionTransformerAdapter and spec.compares]
WINDOW = 3


def run_by_window(
    trunk: torch.nn.Module, block: torch.nn.Module, tokens: Tensor, rotary: Tensor | None, grid: tuple[int, int]
) -> Tensor:
    """Cut out every window of every image, without pads, and give each to timm's block with a copy of the prefix."""
    prefix = trunk.num_prefix_tokens
    height, width = grid
    out = tokens.clone()
    cells = torch.arange(height * width).view(height, width)
    for number in range(len(tokens)):
        prefixes = []
        for top in range(0, height, WINDOW):
            for left in range(0, width, WINDOW):
                index = cells[top : top + WINDOW, left : left + WINDOW].flatten()
                x = torch.cat((tokens[number, :prefix], tokens[number, prefix + index]))[None]
                x = block(x) if rotary is None else block(x, rotary[..., index, :])
                prefixes.append(x[0, :prefix])
                out[number, prefix + index] = x[0, prefix:]
        out[number, :prefix] = torch.stack(prefixes).mean(dim=0)
    return out


@pytest.mark.parametrize("spec", SPECS, ids=str)
@torch.no_grad()
def test_windows_equal_windows_run_one_by_one(spec: Spec) -> None:
    adapter = spec.build(window_size=WINDOW, global_blocks=(1, 3))
    patch = adapter.pad_multiple
    grid = (7, 5)
    x = image(grid[0] * patch, grid[1] * patch)
    trunk = adapter.trunk
    embedded = trunk._pos_embed(trunk.patch_embed(x))
    tokens, rotary = embedded if isinstance(embedded, tuple) else (embedded, None)
    tokens = trunk.norm_pre(tokens)
    expected = []
    for index, block in enumerate(trunk.blocks):
        position = rotary[index] if getattr(trunk, "rope_mixed", False) else rotary
        if index in (1, 3):
            tokens = block(tokens) if position is None else block(tokens, position)
        else:
            tokens = run_by_window(trunk, block, tokens, position, grid)
        if index in adapter.out_indices:
            patches = tokens[:, trunk.num_prefix_tokens :]
            patches = trunk.fc_norm(trunk.norm(patches)) if adapter.out_norm else patches
            expected.append(patches.transpose(1, 2).unflatten(2, grid))
    for actual, reference in zip(adapter(x), expected, strict=True):
        assert relative_error(actual, reference) < 1e-4


@pytest.mark.parametrize("spec", SPECS, ids=str)
@torch.no_grad()
def test_one_window_is_global_attention(spec: Spec) -> None:
    windowed, plain = spec.build(window_size=40, global_blocks=()), spec.build()
    for one, other in zip(windowed(image(60, 90)), plain(image(60, 90)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_windows_train_with_checkpointing_at_any_size(spec: Spec) -> None:
    adapter = spec.build(window_size=WINDOW, with_cp=True).train()
    for height, width in ((97, 65), (5, 200)):
        adapter.zero_grad()
        sum(feature_map.square().sum() for feature_map in adapter(image(height, width))).backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in adapter.parameters())


def test_global_blocks_default_to_every_quarter() -> None:
    adapter = adapters.create_adapter("vit_tiny_patch16_224", window_size=14)
    assert adapter.global_blocks == (2, 5, 8, 11)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window_size": 0}, "window_size=0"),
        ({"global_blocks": (2,)}, "set window_size"),
        ({"window_size": 14, "global_blocks": (12,)}, "global_blocks=.* holds 12.*12 blocks"),
    ],
    ids=str,
)
def test_mistakes(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        adapters.create_adapter("vit_tiny_patch16_224", **options)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@torch.no_grad()
def test_windows_of_a_file_are_the_same(spec: Spec) -> None:
    """Where height and width stay free, all windows are whole and their pads masked; also where there is but one."""
    adapter = spec.build(window_size=WINDOW, global_blocks=(1, 3))
    for size in ((97, 65), (40, 20)):
        with mock.patch("torch.compiler.is_exporting", return_value=True):
            exported = adapter(image(*size))
        for one, other in zip(exported, adapter(image(*size)), strict=True):
            assert relative_error(one, other) < 1e-5
