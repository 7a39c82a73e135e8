"""Positional tables at another size, as the authors of each kind resample them."""

import pytest
import torch
import torch.nn.functional as F
from references import relative_error
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import nn

import adapters
from adapters.any_size.positions import resampling_of


def test_relative_bias_is_resized_as_beit_does() -> None:
    old, new = nn.Module(), nn.Module()
    old.window_size, new.window_size = (4, 4), (6, 9)
    for extra in (0, 3):
        table = torch.randn(49 + extra, 5)
        old.relative_position_bias_table = nn.Parameter(table)
        new.relative_position_bias_table = nn.Parameter(torch.empty(11 * 17 + extra, 5))
        resample = resampling_of("t", "relative_position_bias_table", old, new, (64, 64), (96, 144))
        expected = resize_rel_pos_bias_table(table, (6, 9), (11 * 17 + extra, 5))
        assert relative_error(resample(table), expected) < 1e-5


def test_absolute_positions_are_resampled_as_timm_does() -> None:
    old, new = nn.Module(), nn.Module()
    old.pos_embed, new.pos_embed = nn.Parameter(torch.randn(1, 17, 8)), nn.Parameter(torch.empty(1, 25, 8))
    resample = resampling_of("pos_embed", "pos_embed", old, new, (64, 64), (64, 96))
    expected = resample_abs_pos_embed(old.pos_embed, [4, 6], [4, 4], 1)
    assert torch.equal(resample(old.pos_embed), expected)
    resample(old.pos_embed).sum().backward()
    assert old.pos_embed.grad.abs().min() > 0


@pytest.mark.parametrize("target", [(5, 7), (7, 5), (5, 9)], ids=str)
def test_a_plane_keeps_its_order_where_one_side_stays(target: tuple[int, int]) -> None:
    """Channels come first in Visformer and PiT, and last in SAM's ViT."""
    old, new = nn.Module(), nn.Module()
    old.first, new.first = nn.Parameter(torch.randn(1, 48, 7, 7)), nn.Parameter(torch.empty(1, 48, *target))
    old.last, new.last = nn.Parameter(torch.randn(1, 7, 7, 48)), nn.Parameter(torch.empty(1, *target, 48))
    for key in ("first", "last"):
        resample = resampling_of(key, key, old, new, (224, 224), (32 * target[0], 32 * target[1]))
        assert resample(getattr(old, key)).shape == getattr(new, key).shape


def test_axial_tables_are_resampled_linearly() -> None:
    old, new = nn.Module(), nn.Module()
    old.rel_pos_h, new.rel_pos_h = nn.Parameter(torch.randn(7, 3)), nn.Parameter(torch.empty(11, 3))
    actual = resampling_of("rel_pos_h", "rel_pos_h", old, new, (64, 64), (96, 96))(old.rel_pos_h)
    assert torch.allclose(actual, F.interpolate(old.rel_pos_h.t()[None], size=11, mode="linear")[0].t())


@pytest.mark.parametrize("model_name", ["mixer_s32_224", "gmlp_ti16_224", "resmlp_12_224"])
def test_matrices_over_tokens_are_refused(model_name: str) -> None:
    with pytest.raises(ValueError, match=rf"{model_name} cannot serve .* learned matrix over that very number of tok"):
        adapters.TimmAdapter(model_name)
