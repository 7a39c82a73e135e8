"""Necks that normalise each map, over the batch or over the channels of a cell, and change nothing else."""

import pytest
import torch
from torch.nn import functional as F
from zoo import image, randomise

import adapters
from adapters.necks.level_norms import LevelNorm


def test_each_map_is_normalised_over_the_batch_by_its_own_statistics() -> None:
    """Channels of very different scale have mean 0 and variance 1 afterwards; in eval mode the running ones serve."""
    neck = adapters.LevelBatchNorm([4, 6])
    maps = [3 + 1000 * image(8, 6, channels=4), 0.01 * image(4, 3, channels=6)]
    for out, feature_map in zip(neck(maps), maps, strict=True):
        assert out.shape == feature_map.shape
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(out.shape[1]), rtol=0, atol=1e-4)
        expected = F.batch_norm(feature_map, None, None, training=True)
        torch.testing.assert_close(out, expected)
    randomise(neck).eval()
    for out, feature_map, norm in zip(neck(maps), maps, neck.norms, strict=True):
        expected = F.batch_norm(feature_map, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        torch.testing.assert_close(out, expected)


def test_each_cell_is_normalised_over_its_channels() -> None:
    neck = randomise(adapters.LevelLayerNorm([4, 6]))
    maps = [3 + 1000 * image(8, 6, channels=4), 0.01 * image(4, 3, channels=6)]
    for out, feature_map, norm in zip(neck(maps), maps, neck.norms, strict=True):
        cells = F.layer_norm(feature_map.movedim(1, 3), [feature_map.shape[1]], norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(out, cells.movedim(3, 1))
        assert out.is_contiguous()


@pytest.mark.parametrize("neck", [adapters.LevelBatchNorm, adapters.LevelLayerNorm])
@pytest.mark.parametrize("channels", [(8,), (4, 8)], ids=str)
def test_other_channels_are_refused(channels: tuple[int, ...], neck: type[LevelNorm]) -> None:
    maps = [torch.zeros(1, count, 2, 2) for count in channels]
    says = rf"{neck.__name__} got maps of \({channels[0]}.*\) channels but its in_channels are \(4,\)"
    with pytest.raises(ValueError, match=says):
        neck([4])(maps)
