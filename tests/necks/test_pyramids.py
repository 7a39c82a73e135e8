"""The contract of both pyramids: sizes and places of cells, gradients, precisions, compilation, and use as a neck."""

import copy
import math

import mmdet.registry
import mmseg.registry
import pytest
import torch
import torch.nn.functional as F
from small_pyramids import (
    GRID_STRIDE,
    PYRAMIDS,
    Make,
    gradients,
    make_transparent,
    ramp_image,
    random_maps,
    randomise,
)
from torch import nn
from torch._dynamo.testing import CompileCounter

from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid

every_pyramid = pytest.mark.parametrize("make", PYRAMIDS.values(), ids=PYRAMIDS.keys())


@pytest.mark.parametrize("stride", GRID_STRIDE)
@pytest.mark.parametrize("make", [PYRAMIDS["simple with extra level"], PYRAMIDS["tap"]], ids=["simple", "tap"])
def test_levels_cover_every_image_that_the_map_comes_from(make: Make, stride: int) -> None:
    with torch.device("meta"):  # sizes only
        pyramid = make(stride)
        maps_of_sizes = {h: random_maps(pyramid, h, 3 * h % 41 + 1) for h in range(1, 18)}
    for h, maps in maps_of_sizes.items():
        grid = GRID_STRIDE[stride]
        cells = math.ceil(h * stride / grid)  # of the map after resampling
        for level, output in zip(pyramid.levels, pyramid(maps), strict=True):
            assert output.shape[:2] == (1, level.channels)
            assert output.shape[2] == math.ceil(cells * grid / level.stride)
            assert output.shape[2] * level.stride >= h * stride  # the tallest image that gives h cells
            assert output.shape[3] * level.stride >= maps[0].shape[3] * stride


@every_pyramid
@pytest.mark.parametrize("stride", [8, 14, 16, 32])
def test_real_sizes_cover_every_image(make: Make, stride: int) -> None:
    pyramid = make(stride)
    for height, width in ((1, 33), (97, 15), (250, 113)):
        outputs = pyramid(random_maps(pyramid, math.ceil(height / stride), math.ceil(width / stride)))
        for level, output in zip(pyramid.levels, outputs, strict=True):
            assert output.shape[1] == level.channels
            assert output.shape[2] >= math.ceil(height / level.stride)
            assert output.shape[3] >= math.ceil(width / level.stride)


@pytest.mark.parametrize("make", [PYRAMIDS["simple without norm"], PYRAMIDS["tap"]], ids=["simple", "tap"])
@pytest.mark.parametrize("stride", [8, 14, 16, 32])
def test_cells_of_every_level_keep_their_place(make: Make, stride: int) -> None:
    height, width = 12, 9
    pyramid = make_transparent(make(stride, 16))  # which patch 32 halves to the two that hold coordinates
    centres = F.pad(F.avg_pool2d(ramp_image(height * stride, width * stride), stride), (0, 0, 0, 0, 0, 14))
    grid = GRID_STRIDE[stride]
    for level, output in zip(pyramid.levels, pyramid([centres] * pyramid.wanted_maps), strict=True):
        for channel, (axis, cells) in enumerate(((-1, width), (-2, height))):
            got = (output[0, channel] - 100).select(-2 if axis == -1 else -1, 0)
            # A pooled cell holds the last, so largest, centre below it; a split one that of its parent.
            size = max(level.stride, grid)
            edges = (torch.arange(len(got)) * level.stride // size + 1) * size
            expected = edges - grid / 2
            inside = expected <= (cells - 0.5) * stride
            assert inside.sum() * level.stride >= (cells - 1) * stride - size
            torch.testing.assert_close(got[inside], expected[inside].to(got), rtol=0, atol=2e-3)


@every_pyramid
@pytest.mark.parametrize("stride", [14, 16])
def test_maps_are_contiguous_and_do_not_depend_on_batch_or_mode(make: Make, stride: int) -> None:
    pyramid = randomise(make(stride))
    maps = [x.to(memory_format=torch.channels_last) for x in random_maps(pyramid, 5, 7, batch=3)]
    together = pyramid(maps)
    assert all(output.is_contiguous() for output in together)
    alone = pyramid.train()([x[1:2] for x in maps])
    for one, all_ in zip(alone, together, strict=True):
        torch.testing.assert_close(one, all_[1:2], rtol=1e-4, atol=1e-5)


@every_pyramid
@pytest.mark.parametrize("stride", [8, 14, 16, 32])
def test_every_parameter_receives_a_gradient(make: Make, stride: int) -> None:
    pyramid = randomise(make(stride))
    outputs = pyramid(random_maps(pyramid, 4, 4))
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for name, parameter in pyramid.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@every_pyramid
@pytest.mark.parametrize("stride", [14, 16])
def test_other_precisions_agree(make: Make, stride: int) -> None:
    pyramid = make(stride)
    maps = random_maps(pyramid, 5, 6)
    outputs = pyramid(maps)
    with torch.autocast("cpu", torch.bfloat16):
        half = pyramid(maps)
    bf16 = copy.deepcopy(pyramid).bfloat16()([x.bfloat16() for x in maps])
    double = copy.deepcopy(pyramid).double()([x.double() for x in maps])
    for index, output in enumerate(outputs):
        assert bf16[index].dtype == torch.bfloat16
        assert double[index].dtype == torch.float64
        torch.testing.assert_close(output.double(), double[index], rtol=1e-3, atol=1e-4)
        for low in (half[index], bf16[index]):
            assert (low.float() - output).norm() < 0.03 * output.norm()


@pytest.mark.parametrize(
    "pyramid",
    [SimpleFeaturePyramid(8, 14, 6, (8, 32), extra_level=True), TapPyramid(8, 14, None, (8, 32))],
    ids=["simple", "tap"],
)
def test_compiles_once_for_sizes_that_change(pyramid: nn.Module) -> None:
    randomise(pyramid)
    counter = CompileCounter()
    compiled = torch.compile(pyramid, backend=counter, dynamic=True, fullgraph=True)
    # torch itself compiles anew for another parity of the pooled map and beyond a size threshold of oneDNN.
    with torch.backends.mkldnn.flags(enabled=False):
        for height, width in ((5, 7), (17, 10), (24, 12)):
            maps = random_maps(pyramid, height, width)
            for got, expected in zip(compiled(maps), pyramid(maps), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def test_trains_when_compiled_for_sizes_that_change() -> None:
    """The graph of the backward pass; ``test_rescale`` has code generated for the layer at which that failed."""
    pyramid = randomise(SimpleFeaturePyramid(4, 14, 4, (16,)))  # every kind of layer between which maps are saved
    compiled = torch.compile(pyramid, backend="aot_eager", dynamic=True, fullgraph=True)
    for height, width in ((5, 7), (17, 10)):
        maps = random_maps(pyramid, height, width, channels=4)
        one, other = (gradients(run, pyramid, maps) for run in (compiled, pyramid))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("registry", [mmdet.registry.MODELS, mmseg.registry.MODELS], ids=["mmdet", "mmseg"])
@pytest.mark.parametrize("name", ["SimpleFeaturePyramid", "TapPyramid"])
def test_as_a_neck_alone_and_before_an_fpn(registry: object, name: str) -> None:
    config = {"type": name, "in_channels": [8] * 4, "in_stride": 16, "out_channels": 6}
    neck = registry.build(config)
    assert type(neck) in (SimpleFeaturePyramid, TapPyramid)
    maps = tuple(torch.randn(1, 8, 4, 6) for _ in range(4))
    alone = neck(maps)
    assert [output.shape[-2:] for output in alone] == [(16, 24), (8, 12), (4, 6), (2, 3)]

    fpn = {"type": "FPN", "in_channels": [6] * 4, "out_channels": 5, "num_outs": 5}
    necks = registry.build([config, fpn])
    before = [parameter.clone() for parameter in necks[0].parameters()]
    necks.init_weights()
    assert all(map(torch.equal, before, necks[0].parameters()))
    assert [tuple(output.shape) for output in necks(maps)] == [
        (1, 5, 16, 24),
        (1, 5, 8, 12),
        (1, 5, 4, 6),
        (1, 5, 2, 3),
        (1, 5, 1, 2),
    ]
