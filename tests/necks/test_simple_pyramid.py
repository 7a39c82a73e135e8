"""The simple feature pyramid against the formula of ViTDet, composed by hand."""

import torch
import torch.nn.functional as F
from small_pyramids import ChannelNorm, random_maps, randomise, share_weights
from torch import nn

from adapters.levels import Level
from adapters.necks.simple_pyramid import SimpleFeaturePyramid


def test_simple_feature_pyramid_is_the_formula_of_vitdet() -> None:
    dim, out = 16, 6
    rescalings = [
        [nn.ConvTranspose2d(dim, 8, 2, 2), ChannelNorm(8), nn.GELU(), nn.ConvTranspose2d(8, 4, 2, 2)],
        [nn.ConvTranspose2d(dim, 8, 2, 2)],
        [],
        [nn.MaxPool2d(2)],
    ]
    pyramid = randomise(SimpleFeaturePyramid(dim, 16, out))
    x = torch.randn(2, dim, 6, 8)
    outputs = pyramid([x])
    for output, stage, rescaling, channels in zip(outputs, pyramid.stages, rescalings, (4, 8, 16, 16), strict=True):
        reference = nn.Sequential(
            *rescaling,
            nn.Conv2d(channels, out, 1, bias=False),
            ChannelNorm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            ChannelNorm(out),
        )
        share_weights(reference, stage)
        torch.testing.assert_close(output, reference(x), rtol=1e-4, atol=1e-5)


def test_patch_32_doubles_three_times_and_halves_the_channels_each_time() -> None:
    pyramid = randomise(SimpleFeaturePyramid(16, 32, 6, out_strides=(4,), norm=False))
    reference = nn.Sequential(
        *(nn.ConvTranspose2d(16, 8, 2, 2), nn.GELU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.GELU()),
        *(nn.ConvTranspose2d(4, 2, 2, 2), nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1)),
    )
    share_weights(reference, pyramid)
    x = torch.randn(1, 16, 3, 2)
    torch.testing.assert_close(pyramid([x])[0], reference(x), rtol=1e-4, atol=1e-5)


def test_simple_feature_pyramid_uses_the_last_map_alone() -> None:
    pyramid = randomise(SimpleFeaturePyramid((3, 5, 8), out_channels=6))
    maps = [torch.randn(1, channels, 4, 4) for channels in (3, 5, 8)]
    for all_maps, last_map in zip(pyramid(maps), pyramid(maps[-1:]), strict=True):
        assert torch.equal(all_maps, last_map)


def test_extra_level_is_the_last_level_max_pool_of_detectron2() -> None:
    pyramid = randomise(SimpleFeaturePyramid(8, 16, 6, extra_level=True))
    *_, last, extra = pyramid(random_maps(pyramid, 9, 14))
    assert torch.equal(extra, F.max_pool2d(last, kernel_size=1, stride=2))
    assert pyramid.levels[-1] == Level(6, 64)
