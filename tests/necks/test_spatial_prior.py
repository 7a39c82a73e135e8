"""The spatial prior: the published ones' numbers, any trunk and size, positions, gradients, and what is refused."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published_priors import Dinov3Adapter, SpatialTuningAdapter
from torch import Tensor, nn
from zoo import CONVIT, TOKENS, image, randomise

import adapters
from adapters.levels import Level
from adapters.necks.build import build_pyramid, count_wanted_maps
from adapters.necks.concat_prior import ConcatPrior
from adapters.necks.extract_prior import ExtractPrior
from adapters.necks.norms import NORMS
from adapters.necks.published_names import rename_published
from adapters.necks.spatial_prior import split_taps

#: Few channels, and every option away from its default.
SMALL = {
    "concat": {"type": "SpatialPrior", "mode": "concat", "stem_channels": 4},
    "extract": {"type": "SpatialPrior", "mode": "extract", "stem_channels": 4, "num_heads": 4},
}
each_mode = pytest.mark.parametrize("mode", SMALL)


def randomise_norms(module: nn.Module) -> nn.Module:
    """Random parameters and running statistics."""
    randomise(module, seed=3)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.running_mean.normal_()
            child.running_var.uniform_(0.5, 2)
    return module.eval()


def make_adapter(mode: str, model_name: str = "vit_small_patch16_224", **options: Any) -> adapters.BackboneAdapter:
    options = {"trunk": TOKENS, **options}
    pyramid = {**SMALL[mode], **options.pop("pyramid", {})}
    torch.manual_seed(0)
    return randomise(adapters.TimmAdapter(model_name, pyramid=pyramid, **options))


def assert_true_levels(adapter: adapters.BackboneAdapter, x: Tensor) -> None:
    maps = adapter(x)
    for feature_map, level in zip(maps, adapter.levels, strict=True):
        sides = (math.ceil(side / level.stride) for side in x.shape[-2:])
        assert feature_map.shape == (len(x), level.channels, *sides)
        assert feature_map.is_contiguous()
        assert feature_map.isfinite().all()


# --- the published ones, weights copied by name


@torch.no_grad()
@pytest.mark.parametrize("dim", [384, 768], ids=["S", "B"])
@pytest.mark.parametrize("size", [(64, 96), (160, 128)], ids=str)
def test_extract_computes_what_dinov3s_adapter_does(dim: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    reference = randomise_norms(Dinov3Adapter(dim))
    ours = ExtractPrior([dim] * 4, norm="SyncBN", drop_path_rate=0.3).eval()
    ours.load_state_dict(rename_published(reference.state_dict()))
    maps = [torch.randn(2, dim, size[0] // 16, size[1] // 16) for _ in range(4)]
    x = image(*size)
    for actual, expected in zip(ours(maps, x), reference(maps, x), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize(("dim", "width", "hidden"), [(384, 16, 192), (768, 32, None)], ids=["S", "B"])
@pytest.mark.parametrize("maps", [1, 3])
def test_concat_computes_what_deimv2s_adapter_does(dim: int, width: int, hidden: int | None, maps: int) -> None:
    torch.manual_seed(0)
    reference = randomise_norms(SpatialTuningAdapter(dim, width, hidden))
    ours = ConcatPrior(
        [dim] * maps, out_channels=hidden, out_strides=(8, 16, 32), stem_channels=width, norm="SyncBN"
    ).eval()
    ours.load_state_dict(rename_published(reference.state_dict()))
    x = image(96, 160)
    taps = [torch.randn(2, dim, 6, 10) for _ in range(maps)]
    for actual, expected in zip(ours(taps, x), reference(taps, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_the_tensors_stand_in_the_published_order() -> None:
    """So that whoever copies them one after the other, without names, is right too."""
    for ours, reference in (
        (ExtractPrior([32] * 4, norm="SyncBN"), Dinov3Adapter(32)),
        (ConcatPrior([32] * 3, out_strides=(8, 16, 32), norm="SyncBN"), SpatialTuningAdapter(32)),
    ):
        assert list(ours.state_dict()) == list(rename_published(reference.state_dict()))


# --- any trunk, any size


@each_mode
@pytest.mark.parametrize(
    ("model_name", "options"),
    [
        ("vit_small_patch16_224", {}),
        ("vit_small_patch8_224", {"in_channels": 1}),
        ("vit_small_patch14_reg4_dinov2", {"in_channels": 13, "pyramid": {"out_channels": 20, "norm": "GN"}}),
        ("vit_small_patch32_224", {"pyramid": {"out_strides": (8, 16)}, "out_indices": (0, 1, 3)}),
        ("vit_small_patch16_dinov3", {"pyramid": {"out_strides": (4, 8, 16, 32, 64)}, "out_indices": (1,)}),
        ("convit_tiny", {"trunk": CONVIT, "out_indices": (0, 1, 2, 3, 4), "pyramid": {"norm": "SyncBN"}}),
        ("beit_base_patch16_224", {"trunk": {"depth": 2, "embed_dim": 24, "num_heads": 2}, "pyramid": {"norm": "BN"}}),
    ],
    ids=["vit", "patch 8, gray", "patch 14, 13 channels", "patch 32", "dinov3", "convit", "beit"],
)
def test_any_trunk_at_any_size(mode: str, model_name: str, options: dict[str, Any]) -> None:
    adapter = make_adapter(mode, model_name, **options)
    channels = options.get("in_channels", 3)
    with torch.no_grad():
        for size in ((97, 65), (1, 1), (37, 500), (64, 96)):
            assert_true_levels(adapter.eval(), image(*size, channels=channels))
    adapter.train()
    maps = adapter(image(70, 100, channels=channels))
    sum((feature_map * torch.randn_like(feature_map)).sum() for feature_map in maps).backward()
    assert [name for name, p in adapter.named_parameters() if p.grad is None] == []


#: What adds the same to every cell right before a batch norm, which takes it out again: no gradient is possible.
TAKEN_OUT = {
    "concat": {"pyramid.stem.steps.2.1.bias", "trunk.blocks.3.mlp.fc2.bias"},
    "extract": {"pyramid.up.bias", "pyramid.projections.0.bias"},
}


@each_mode
def test_every_parameter_moves_the_maps(mode: str) -> None:
    for norm in NORMS:
        adapter = make_adapter(mode, pyramid={"norm": norm}).train()
        maps = adapter(image(70, 100))
        sum((feature_map * torch.randn_like(feature_map)).sum() for feature_map in maps).backward()
        silent = [name for name, p in adapter.named_parameters() if not p.grad.abs().max() > 1e-4]
        assert set(silent) == (TAKEN_OUT[mode] if "BN" in norm else set()), norm


@torch.no_grad()
@pytest.mark.parametrize("patch", [7, 8, 14, 16, 32])
def test_cells_read_and_get_what_lies_where_they_are(patch: int) -> None:
    """Maps that hold their own coordinates: each level then holds those of its cells' centres."""
    height, width = 11, 8
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ramp = torch.stack([x, y])[None] * patch
    padded = torch.zeros(1, 3, height * patch, width * patch)

    prior = ConcatPrior(2, patch, stem_channels=1)
    for conv in prior.convs:
        nn.init.zeros_(conv.weight)
        conv.weight[:, :2] = torch.eye(2)[:, :, None, None]
    prior.norms = nn.ModuleList(nn.Identity() for _ in prior.norms)
    assert_places(prior, prior([ramp], padded), height * patch, width * patch, patch)

    prior = ExtractPrior(2, patch, stem_channels=1, num_heads=1, value_ratio=1.0, ffn_ratio=0, add_taps=False,
                         extra_extractors=0, out_strides=(8, 16, 32))  # fmt: skip
    (extractor,) = prior.extractors
    for parameter in prior.parameters():
        nn.init.zeros_(parameter)
    extractor.attn.value_proj.weight.copy_(torch.eye(2))
    extractor.attn.output_proj.weight.copy_(torch.eye(2))
    extractor.feat_norm = nn.Identity()
    prior.norms = nn.ModuleList(nn.Identity() for _ in prior.norms)
    assert_places(prior, prior([ramp], padded), height * patch, width * patch, patch)


def assert_places(prior: nn.Module, maps: tuple[Tensor, ...], height: int, width: int, patch: int) -> None:
    for feature_map, level in zip(maps, prior.levels, strict=True):
        for channel, (axis, side) in enumerate(((-1, width), (-2, height))):
            centres = (torch.arange(feature_map.shape[axis]) + 0.5) * level.stride
            inside = (centres >= patch / 2) & (centres <= side - patch / 2)
            assert inside.sum() >= side // level.stride - patch // level.stride - 1
            across = -2 if axis == -1 else -1
            middle = feature_map.shape[across] // 2 - 1  # away from the other axis' border
            got = feature_map[0, channel].select(across, max(middle, 0))
            torch.testing.assert_close(got[inside], centres[inside], rtol=1e-4, atol=1e-2)


@torch.no_grad()
@each_mode
def test_details_within_a_patch_reach_the_fine_levels(mode: str) -> None:
    """A frozen trunk that sees nothing at all: what is left is what the prior sees."""
    adapter = make_adapter(mode).eval()
    for parameter in adapter.trunk.parameters():
        parameter.zero_()
    x = image(64, 64)
    moved = x.clone()
    moved[..., 30:34, 30:34] += 1
    changed = [(one - other).abs().amax((0, 1)) for one, other in zip(adapter(x), adapter(moved), strict=True)]
    assert all(change.max() > 1e-3 for change in changed)
    finest = changed[0] > 1e-6
    assert finest[8, 8]
    assert not finest[0, 0]


# --- frozen trunks, checkpointing, precision


@each_mode
def test_a_frozen_trunk_is_not_kept_for_the_backward_pass(mode: str) -> None:
    adapter = make_adapter(mode, frozen_stages=TOKENS["depth"]).train()
    trunk = {tensor.untyped_storage().data_ptr() for tensor in adapter.trunk.parameters()}
    kept: list[Tensor] = []
    maps_of_trunk: list[bool] = []
    adapter.pyramid.register_forward_pre_hook(
        lambda _module, inputs: maps_of_trunk.extend(x.requires_grad for x in inputs[0])
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        maps = adapter(image(64, 64))
    assert maps_of_trunk == [False] * 4
    assert not any(x.untyped_storage().data_ptr() in trunk for x in kept)
    sum(feature_map.square().sum() for feature_map in maps).backward()
    trained = {name for name, p in adapter.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in adapter.named_parameters() if name.startswith("pyramid.")}
    assert not any(module.training for module in adapter.trunk.blocks)


def test_checkpointing_computes_extractors_anew_with_the_same_gradients() -> None:
    gradients, calls = [], []
    for with_cp in (False, True):
        adapter = make_adapter("extract", with_cp=with_cp).train()
        count: list[int] = []
        adapter.pyramid.extractors[0].attn.value_proj.register_forward_pre_hook(lambda *_, c=count: c.append(1))
        sum(feature_map.square().sum() for feature_map in adapter(image(48, 80))).backward()
        gradients.append({name: p.grad for name, p in adapter.named_parameters()})
        calls.append(len(count))
    assert calls == [1, 2]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@torch.no_grad()
@each_mode
def test_autocast_is_close(mode: str) -> None:
    adapter = make_adapter(mode).eval()
    x = image(64, 96)
    expected = adapter(x)
    with torch.autocast("cpu", torch.bfloat16):
        for low, full in zip(adapter(x), expected, strict=True):
            assert low.dtype == x.dtype
            assert (low - full).norm() < 0.04 * full.norm()


@torch.no_grad()
@each_mode
def test_exports(mode: str) -> None:
    adapter = make_adapter(mode, trunk={**TOKENS, "depth": 2}).eval()
    x = image(64, 96, batch=1)
    program = torch.export.export(adapter, (x,))
    for actual, expected in zip(program.module()(x), adapter(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@each_mode
def test_compiles_as_one_graph(mode: str) -> None:
    adapter = make_adapter(mode, trunk={**TOKENS, "depth": 2}).eval()
    x = image(70, 100)
    compiled = torch.compile(adapter, backend="eager", fullgraph=True, dynamic=False)
    for actual, expected in zip(compiled(x), adapter(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


# --- building


@pytest.mark.parametrize(("maps", "levels"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (8, 3), (4, 1)])
def test_every_map_has_a_level_and_every_level_a_map(maps: int, levels: int) -> None:
    taps = split_taps(maps, levels)
    assert len(taps) == levels
    assert all(taps)
    assert sorted({tap for some in taps for tap in some}) == list(range(maps))
    assert [some[0] for some in taps] == sorted(some[0] for some in taps)


def test_a_config_has_a_mode_and_concat_is_the_default() -> None:
    levels = [Level(8, 14)] * 3
    assert type(build_pyramid({"type": "SpatialPrior"}, levels, "a_model")) is ConcatPrior
    pyramid = build_pyramid({"type": "SpatialPrior", "mode": "extract", "num_heads": 2}, levels, "a_model", 5, True)
    assert (type(pyramid), pyramid.with_cp, pyramid.in_stride) == (ExtractPrior, True, 14)
    assert pyramid.stem.entry[0].in_channels == 5
    assert pyramid.levels == tuple(Level(8, stride) for stride in (4, 8, 16, 32))
    assert count_wanted_maps({"type": "SpatialPrior", "out_strides": (8, 16)}) == 2


def test_norms_are_those_of_torch() -> None:
    x = torch.randn(2, 64, 5, 7)
    expected = {
        "LN": F.layer_norm(x.movedim(1, -1), (64,), eps=1e-6).movedim(-1, 1),
        "GN": F.group_norm(x, 32),
        "BN": F.batch_norm(x, None, None, training=True),
        "SyncBN": F.batch_norm(x, None, None, training=True),
    }
    assert set(expected) == set(NORMS)
    for name, value in expected.items():
        torch.testing.assert_close(NORMS[name](64)(x), value)
    assert NORMS["GN"](24).num_groups == 8


# --- user's mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(model_name="resnet18"),
            "takes maps of one stride.*leave pyramid out, since this model is a pyramid",
        ),
        (
            dict(model_name="resnet18", out_indices=(1, 2, 3, 4), pyramid=dict(out_strides=(8,))),
            r"takes maps of one stride, but resnet18 gives strides \[4, 8, 16, 32\]",
        ),
        (dict(out_indices=(0, 4)), r"out_indices=\(0, 4\) holds 4, which is out of range; .* has 4 blocks"),
        (dict(pyramid=dict(out_strides=(2, 4))), r"\(2, 4\) cannot be made by halving an image.* strides 4, 8, 16"),
        (dict(pyramid=dict(out_strides=(7, 14))), r"\(7, 14\) cannot be made by halving"),
        (dict(pyramid=dict(out_strides=(4, 12))), r"\(4, 12\) must be increasing .*power of two"),
        (
            dict(pyramid=dict(mode="extract", out_strides=(4, 16))),
            r"\(4, 16\) cannot be made: mode='extract' doubles stride 8 for stride 4, so add 8 or leave 4 out",
        ),
        (dict(pyramid=dict(mode="inject")), "mode 'inject' is unknown: SpatialPrior has concat and extract"),
        (
            dict(pyramid=dict(num_heads=4)),
            "'num_heads' is unknown: SpatialPrior in mode 'concat' takes out_channels, out_strides, stem_ch",
        ),
        (dict(pyramid=dict(image_channels=4)), "'image_channels' is filled in by the adapter: leave it out"),
        (dict(pyramid=dict(norm="LayerNorm")), "norm='LayerNorm' is unknown: it must be LN, GN, BN, SyncBN"),
        (dict(pyramid=dict(norm=dict(type="BN"))), "norm={'type': 'BN'} is unknown: it must be LN, GN, BN, SyncBN"),
        (dict(pyramid=dict(stem_channels=0)), r"stem_channels=\[0\] must be a positive number"),
        (dict(pyramid=dict(mode="extract", num_heads=0)), "num_heads and num_points=.* must be a positive number"),
        (dict(pyramid=dict(mode="extract", value_ratio=-1)), "value_ratio=-1 must be a number of at least 0"),
        (dict(pyramid=dict(mode="extract", ffn_ratio="1")), "ffn_ratio='1' must be a number of at least 0"),
        (dict(pyramid=dict(mode="extract", drop_path_rate=1)), "drop_path_rate=1 must .* at least 0 and below 1"),
        (dict(pyramid=dict(mode="extract", extra_extractors=1.5)), "extra_extractors=1.5 must be an integer"),
        (dict(pyramid=dict(out_channels=0)), r"out_channels=\[0\] must be a positive number"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    settings = {"model_name": "vit_small_patch16_224", **options}
    pyramid = {"type": "SpatialPrior", **settings.pop("pyramid", {})}
    if settings["model_name"].startswith("vit"):
        settings["trunk"] = TOKENS
    with pytest.raises(ValueError, match=message):
        adapters.TimmAdapter(pyramid=pyramid, **settings)


def test_a_neck_that_does_not_see_the_image_is_not_registered() -> None:
    from mmengine.registry import MODELS

    assert MODELS.get("SpatialPrior") is None
