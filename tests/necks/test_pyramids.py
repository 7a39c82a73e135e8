"""The pyramids against independent references: layers composed by hand, and maps pooled from a ramp image."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable

import mmdet.registry
import mmseg.registry
import pytest
import torch
import torch.nn.functional as F
from mmengine import ConfigDict
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from adapters.levels import Level
from adapters.necks.build import build_pyramid, count_wanted_maps
from adapters.necks.rescale import Resample, make_conv, make_doubling
from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid

# The stride that each input stride is brought to before doublings and poolings, for levels 4, 8, 16, 32.
GRID_STRIDE = {8: 8, 14: 16, 16: 16, 32: 32, 7: 8, 10: 8, 12: 16, 4: 4, 64: 64}
PYRAMIDS = {
    "simple": lambda stride=16, channels=8, **keywords: SimpleFeaturePyramid(channels, stride, 6, **keywords),
    "simple without norm": lambda stride=16, channels=8: SimpleFeaturePyramid(channels, stride, 6, norm=False),
    "simple with extra level": lambda stride=16, channels=8: SimpleFeaturePyramid(
        channels, stride, 6, extra_level=True
    ),
    "tap": lambda stride=16, channels=8: TapPyramid(channels, stride),
    "projected tap": lambda stride=16, channels=8: TapPyramid(channels, stride, out_channels=6),
}
Make = Callable[..., SimpleFeaturePyramid | TapPyramid]
every_pyramid = pytest.mark.parametrize("make", PYRAMIDS.values(), ids=PYRAMIDS.keys())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def random_maps(pyramid: nn.Module, height: int, width: int, channels: int = 8, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, channels, height, width) for _ in range(pyramid.wanted_maps)]


def make_transparent(pyramid: nn.Module) -> nn.Module:
    """Weights with which every layer hands its cells on unchanged; GELU does so for large positive values."""
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            middle = module.kernel_size[0] // 2
            for channel in range(2):  # the two that hold coordinates
                if isinstance(module, nn.ConvTranspose2d):
                    module.weight.data[channel, channel] = 1
                else:
                    module.weight.data[channel, channel, middle, middle] = 1
        for name, child in list(module.named_children()):
            if isinstance(child, LayerNorm2d):
                setattr(module, name, nn.Identity())
    return pyramid


class ChannelNorm(nn.Module):
    """Layer norm over channels, written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def share_weights(reference: nn.Module, module: nn.Module) -> None:
    names, values = reference.state_dict().keys(), module.state_dict().values()
    reference.load_state_dict(dict(zip(names, values, strict=True)))


# --- the formulas


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


@pytest.mark.parametrize("out_channels", [None, 6])
def test_tap_pyramid_rescales_each_map_to_its_stride(out_channels: int | None) -> None:
    in_channels = (8, 10, 12, 14)
    pyramid = randomise(TapPyramid(in_channels, 16, out_channels))
    maps = [torch.randn(2, channels, 6, 8) for channels in in_channels]
    outputs = pyramid(maps)
    for index, (channels, x) in enumerate(zip(in_channels, maps, strict=True)):
        projection = [] if out_channels is None else [nn.Conv2d(channels, out_channels, 1)]
        c = out_channels or channels
        rescaling = [
            [nn.ConvTranspose2d(c, c, 2, 2), ChannelNorm(c), nn.GELU(), nn.ConvTranspose2d(c, c, 2, 2)],
            [nn.ConvTranspose2d(c, c, 2, 2)],
            [],
            [nn.MaxPool2d(2)],
        ][index]
        reference = nn.Sequential(*projection, *rescaling)
        share_weights(reference, pyramid.stages[index])
        torch.testing.assert_close(outputs[index], reference(x), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("layer", [make_conv(32, 64, 1, True), make_conv(32, 64, 3, True), make_doubling(32, 64)])
def test_convs_start_with_unit_gain(layer: nn.Module) -> None:
    assert layer(torch.randn(2, 32, 64, 64)).std().item() == pytest.approx(1, abs=0.06)
    assert not layer.bias.any()


# --- sizes and positions


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


@pytest.mark.parametrize(("stride", "wanted"), [(14, 16), (12, 16), (10, 8), (7, 8), (14, 7 * 3), (9, 7)])
def test_resampling_puts_each_cell_where_pooling_the_image_would(stride: int, wanted: int) -> None:
    height, width = 11, 7
    image = ramp_image(height * stride, width * stride)
    resampled = Resample(stride, wanted)(F.avg_pool2d(image, stride))
    pooled = F.avg_pool2d(image, wanted)  # of the whole cells
    reached = [math.floor((cells - 0.5) * stride / wanted + 0.5) for cells in (height, width)]
    assert min(reached) >= 4
    inside = (..., slice(reached[0]), slice(reached[1]))
    expected, got = pooled[inside], resampled[inside]
    begin = int(wanted < stride)  # the first centre then lies before the first that comes in
    torch.testing.assert_close(got[..., begin:, begin:], expected[..., begin:, begin:], rtol=1e-5, atol=1e-3)


def test_resampling_repeats_the_border() -> None:
    resampled = Resample(14, 16)(torch.full((1, 1, 3, 5), 7.0))
    torch.testing.assert_close(resampled, torch.full((1, 1, 3, 5), 7.0))


def ramp_image(height: int, width: int) -> Tensor:
    """``(1, 2, height, width)``: each pixel holds the x and the y of its centre, plus 100."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])[None] + 100


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


# --- training, precision, compilation


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
    pyramid = randomise(SimpleFeaturePyramid(4, 14, 4, (16,)))  # every kind of layer between which maps are saved
    compiled = torch.compile(pyramid, dynamic=True, fullgraph=True)
    for height, width in ((5, 7), (17, 10)):
        maps = random_maps(pyramid, height, width, channels=4)
        gradients = []
        for run in (compiled, pyramid):
            pyramid.zero_grad()
            run(maps)[0].square().mean().backward()
            gradients.append([parameter.grad.clone() for parameter in pyramid.parameters()])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


# --- building from configs


def test_build_pyramid_fills_in_channels_and_stride_and_leaves_the_config_alone() -> None:
    config = {"type": "SimpleFeaturePyramid", "out_channels": 24, "out_strides": [8, 16]}
    before = copy.deepcopy(config)
    pyramid = build_pyramid(config, [Level(8, 14), Level(12, 14)], "a_model")
    assert config == before
    assert (pyramid.in_channels, pyramid.wanted_maps) == (12, 1)
    assert pyramid.levels == (Level(24, 8), Level(24, 16))
    assert [output.shape[-2:] for output in pyramid([torch.randn(1, 12, 8, 8)])] == [(14, 14), (7, 7)]

    taps = build_pyramid(ConfigDict(type="TapPyramid"), [Level(count, 16) for count in (8, 10, 12, 14)], "a_model")
    assert taps.wanted_maps == 4
    assert taps.levels == (Level(8, 4), Level(10, 8), Level(12, 16), Level(14, 32))


def test_count_wanted_maps_answers_before_building() -> None:
    assert count_wanted_maps({"type": "SimpleFeaturePyramid", "out_strides": (4, 8)}) == 1
    assert count_wanted_maps({"type": "TapPyramid"}) == 4
    assert count_wanted_maps({"type": "TapPyramid", "out_strides": (8, 16)}) == 2


def test_building_needs_no_mmengine() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'mmengine':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from adapters.levels import Level\n"
        "from adapters.necks.build import build_pyramid\n"
        "print(build_pyramid({'type': 'TapPyramid'}, [Level(8, 16)] * 4, 'a_model').levels)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Level(channels=8, stride=32)" in result.stdout


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


# --- user's mistakes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "FPN"}, "pyramid type 'FPN' is unknown: it must be SimpleFeaturePyramid or TapPyramid"),
        ({}, "pyramid type None is unknown: it must be SimpleFeaturePyramid or TapPyramid"),
        (
            "TapPyramid",
            "pyramid='TapPyramid' must be a dict whose type is SimpleFeaturePyramid or TapPyramid",
        ),
        (
            {"type": "SimpleFeaturePyramid", "out_chanels": 6},
            "key 'out_chanels' is unknown: Simple.* takes out_channels, out_strides, extra_level, norm",
        ),
        (
            {"type": "TapPyramid", "norm": False},
            "key 'norm' is unknown: TapPyramid takes out_channels, out_strides",
        ),
        ({"type": "TapPyramid", "in_channels": 8}, "'in_channels' is filled in by the adapter.*leave it out"),
        ({"type": "TapPyramid", "in_stride": 8}, "'in_stride' is filled in by the adapter.*leave it out"),
        (
            {"type": "TapPyramid", "out_strides": (4, 12)},
            r"out_strides=\(4, 12\) must be increasing .*\(4, 8, 16",
        ),
    ],
)
@pytest.mark.parametrize(
    "build",
    [lambda config: build_pyramid(config, [Level(8, 16)] * 4, "a_model"), count_wanted_maps],
    ids=["build", "count"],
)
def test_configs_that_are_refused(build: Callable, config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"in_stride": 0}, "in_stride=0 must be a positive integer: the image pixels per cell"),
        ({"in_stride": 16.0}, "in_stride=16.0 must be a positive integer"),
        ({"out_strides": ()}, r"out_strides=\(\) must be increasing positive integers"),
        ({"out_strides": 4}, "out_strides=4 must be increasing positive integers"),
        ({"out_strides": (8, 4)}, r"out_strides=\(8, 4\) must be increasing.*such as \(4, 8, 16, 32\)"),
        ({"out_strides": (4, 4)}, r"out_strides=\(4, 4\) must be increasing"),
        ({"out_strides": (0, 4)}, r"out_strides=\(0, 4\) must be increasing positive"),
        ({"in_channels": 0}, "in_channels=0 must be a positive number of channels"),
        ({"in_channels": []}, r"in_channels=\[\] must be a positive number of channels, or one for each map"),
        ({"out_channels": -1}, r"out_channels=\[-1\] must be a positive number of channels"),
    ],
)
@pytest.mark.parametrize("pyramid", [SimpleFeaturePyramid, TapPyramid])
def test_values_that_are_refused(pyramid: type, keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyramid(**{"in_channels": 8, **keywords})


def test_tap_pyramid_says_which_maps_to_ask_for() -> None:
    message = (
        r"one map for each of out_strides=\(4, 8, 16, 32\), 4 in all, but got 1. Ask the backbone for 4 "
        r"blocks, such as out_indices=\(2, 5, 8, 11\) of a model with 12"
    )
    with pytest.raises(ValueError, match=message):
        TapPyramid([8])
    with pytest.raises(ValueError, match=message):
        TapPyramid(8)([torch.randn(1, 8, 4, 4)])


@pytest.mark.parametrize("pyramid", [SimpleFeaturePyramid(8), TapPyramid(8)])
def test_maps_that_are_refused(pyramid: nn.Module) -> None:
    with pytest.raises(ValueError, match="takes the tuple of maps of a backbone"):
        pyramid(torch.randn(4, 8, 4, 4))
    with pytest.raises(ValueError, match=r"got maps of \(.*5\S*\) channels but its in_channels are \(8"):
        pyramid([torch.randn(1, 5, 4, 4)] * 4)
