"""tools/describe.py: counts beside model cards, published figures and counts done by hand; tables; lines that run."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from zoo import TWINS, ZOO, Spec

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from lab.published import FLOP_TOLERANCE, PARAMETER_TOLERANCE, Comparison, compare_published
from lab.published_page import PAGE, page
from mmengine.config import Config
from mmengine.registry import MODELS

import adapters
from adapters.commands.describe import describe
from adapters.describe.backbones import count_classifier, describe_backbone, unused_parameters
from adapters.describe.counting import count, count_parameters
from adapters.openmmlab.count_config import count_config, image_size
from adapters.openmmlab.run import register_scope

REPOSITORY = Path(__file__).resolve().parents[2]

#: What the model cards state: millions of parameters, thousand millions of multiply-adds, side of the image, and
#: whether attention is among them. (timm counts fused attention as nothing.)
MODEL_CARDS = {
    "twins_svt_large.in1k": (99.3, 15.1, 224, True),
    "vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k": (60.2, 15.5, 256, False),
    "swinv2_cr_tiny_ns_224.sw_in1k": (28.3, 4.7, 224, True),
    "convit_base.fb_in1k": (86.5, 17.5, 224, True),
}


@pytest.mark.parametrize("name", MODEL_CARDS)
def test_counts_are_those_of_the_model_cards(name: str) -> None:
    parameters, multiply_adds, side, with_attention = MODEL_CARDS[name]
    whole = count_classifier(name, (side, side))
    assert whole.parameters / 1e6 == pytest.approx(parameters, abs=0.06)
    left_out = 0 if with_attention else whole.attention
    assert (whole.multiply_adds - left_out) / 1e9 == pytest.approx(multiply_adds, rel=0.013)
    backbone = describe_backbone(name)
    assert backbone.count.size == (side, side)
    # Ours does without the classifier, and evaluates SwinV2-CR's position bias once for each offset.
    assert backbone.count.multiply_adds == pytest.approx(whole.multiply_adds, rel=0.05)
    adapter = adapters.TimmAdapter(name)
    assert backbone.count.parameters == count_parameters(adapter)
    assert backbone.count.parameters + unused_parameters(adapter) == whole.parameters


COUNTED = ("twins_svt_dense", "swinv2_cr", "vit_rope_reg", "convit_pyramid", "resnet", "swin")


@pytest.mark.parametrize("spec", [spec for spec in ZOO if spec.name in COUNTED], ids=str)
def test_counting_without_data_is_counting_for_real(spec: Spec) -> None:
    """On the meta device, and on the CPU with values."""
    described = describe_backbone(spec.model_name, (70, 100), spec.options)
    adapter = spec.build()
    real = count(adapter, (70, 100), adapter)
    assert described.count == real
    assert described.levels == adapter.levels
    assert real.parameters == sum(parameter.numel() for parameter in adapter.parameters())
    assert 0 <= real.attention < real.multiply_adds


def test_a_count_by_hand() -> None:
    """One block of a ViT on a grid of 4 x 6 patches and a class token."""
    width, heads = 32, 2
    adapter = adapters.TimmAdapter("vit_small_patch16_224", trunk={"depth": 1, "embed_dim": width, "num_heads": heads})
    found = count(adapter, (64, 96), adapter)
    patches = 4 * 6
    tokens = patches + 1
    attention = 2 * tokens * tokens * width
    layers = patches * 3 * 16 * 16 * width + tokens * width * width * (3 + 1 + 4 + 4)
    assert (found.attention, found.multiply_adds) == (attention, attention + layers)


def test_mmcvs_deformable_convolutions_count() -> None:
    """torch's counter does not see them."""
    from mmcv.ops import ModulatedDeformConv2dPack

    layer = ModulatedDeformConv2dPack(4, 6, kernel_size=3, padding=1)
    offsets = 4 * 9 * 27
    assert count(layer, (5, 7), layer, channels=4).multiply_adds == 5 * 7 * (4 * 9 * 6 + offsets)


def semantic_fpn(**backbone: Any) -> Config:
    cfg = Config.fromfile(REPOSITORY / "configs/segmentation/fpn_twins-svt-s_80k_ade20k-512x512.py")
    cfg.model.backbone.update(backbone)
    register_scope(cfg)
    return cfg


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_a_whole_model_counts_as_its_parts_do(scope: str) -> None:
    """Backbone, neck and heads counted one by one, for real, on maps of the right size."""
    if scope == "mmseg":
        cfg = semantic_fpn(trunk=TWINS, out_indices=(0, 1, 2, 3))
        cfg.model.neck.in_channels = TWINS["embed_dims"]
        size = image_size(cfg)
        assert size == (512, 512)
    else:
        cfg = Config.fromfile(REPOSITORY / "configs/detection/mask-rcnn_twins-svt-s_fpn_1x_coco.py")
        cfg.model.backbone.update(trunk=TWINS)
        cfg.model.neck.in_channels = TWINS["embed_dims"]
        register_scope(cfg)
        assert image_size(cfg) == (800, 1344)
        size = (96, 128)
    cfg.model.backbone.weights = "timm"  # must not be asked for
    found = count_config(cfg, size)
    cfg.model.backbone.weights = None
    with torch.device("meta"):
        model = MODELS.build(cfg.model).eval()
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert dict(found.parts)["neck"] == sum(parameter.numel() for parameter in model.neck.parameters())

    strides = (4, 8, 16, 32)
    total = describe_backbone("twins_svt_small", size, dict(trunk=TWINS, stage_norm=True)).count.multiply_adds
    grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]
    cells = [height * width for height, width in grids]
    total += sum(
        count * (channels * 256 + 9 * 256 * 256) for count, channels in zip(cells, TWINS["embed_dims"], strict=True)
    )
    if scope == "mmseg":
        # Each level's convolutions, at the resolution that they run at on the way up to stride 4.
        for level in range(4):
            for step in range(max(level, 1)):
                total += cells[level - step] * 9 * (256 if step == 0 else 128) * 128
        total += cells[0] * 128 * 150
    else:
        cells.append(-(-grids[-1][0] // 2) * -(-grids[-1][1] // 2))
        total += sum(cells) * (9 * 256 * 256 + 256 * 3 * 5)  # proposals
        total += 1000 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 320))  # boxes
        total += 100 * (14 * 14 * 256 * (4 * 9 * 256 + 4 * 256) + 28 * 28 * 256 * 80)  # masks
    assert found.multiply_adds == total


def test_models_that_read_values_are_run_for_real() -> None:
    """DETR's padding masks have no meaning without data."""
    cfg = Config.fromfile(REPOSITORY / "configs/detection/dino_swinv2-cr-tiny_12e_coco.py")
    cfg.model.backbone.update(trunk=dict(depths=(1, 1, 1, 1)), weights=None)
    cfg.model.update(num_queries=20)
    register_scope(cfg)
    found = count_config(cfg, (64, 96))
    model = MODELS.build(cfg.model)
    assert found.parameters == count_parameters(model)
    assert (
        found.multiply_adds
        > describe_backbone(
            "swinv2_cr_tiny_ns_224", (64, 96), dict(trunk=dict(depths=(1, 1, 1, 1)), out_indices=(1, 2, 3))
        ).count.multiply_adds
    )


def test_a_size_that_a_model_cannot_take() -> None:
    cfg = semantic_fpn(trunk=TWINS)
    with pytest.raises(
        ValueError, match=r"fpn_twins-svt-s.* cannot be run on an image of 64 x 64: .*Give another size with --size"
    ):
        count_config(cfg, (64, 64))  # the neck is for other channels


@pytest.fixture(scope="session")
def comparisons() -> list[Comparison]:
    return compare_published()


def test_published_parameters(comparisons: list[Comparison]) -> None:
    """All 24 models, in 1x and 3x where both exist; 21 of them agree to the digits that are published."""
    models = {comparison.recipe.replace("_3x_", "_1x_"): comparison for comparison in comparisons}
    assert len(models) == 24
    for comparison in comparisons:
        assert abs(comparison.parameter_difference) <= PARAMETER_TOLERANCE, comparison
        assert comparison.parameters > comparison.ours.parameters / 1e6 + 0.5
    close = [c for c in models.values() if abs(c.parameters - c.published_parameters) < 0.06]
    assert len(close) >= 21


def test_published_flops(comparisons: list[Comparison]) -> None:
    for comparison in comparisons:
        if comparison.flop_difference is None:
            continue
        assert abs(comparison.flop_difference) <= FLOP_TOLERANCE, comparison


def test_the_page_of_published_counts_is_current(comparisons: list[Comparison]) -> None:
    assert PAGE.read_text() == page(comparisons), (
        "run `python tools/describe.py --published --markdown > docs/published_counts.md`"
    )


def test_printed_description_of_a_model(capsys: pytest.CaptureFixture) -> None:
    assert describe(["twins_svt_small", "--size", "512", "512"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "twins_svt_small, served by TwinsAdapter",
        "parameters     23.55 M",
        "at 512 x 512",
        "whole model    24.06 M, 2.93 G at 224 x 224",
    ):
        assert line in printed, printed


@pytest.mark.parametrize("name", ["twins_svt_small", "convit_tiny", "vit_small_patch14_reg4_dinov2", "resnet18"])
def test_the_lines_for_a_config_run(name: str) -> None:
    lines = describe_backbone(name).lines
    scope: dict[str, Any] = {}
    exec(lines, scope)
    assert scope["custom_imports"]["imports"] == ["adapters"]
    model = scope["model"]
    assert model["data_preprocessor"]["mean"] == pytest.approx(
        [255 * v for v in timm.get_pretrained_cfg(name).mean], abs=1e-3
    )
    model["backbone"]["weights"] = None
    cfg = Config(dict(default_scope="mmdet"))
    register_scope(cfg)
    backbone, neck = (MODELS.build(dict(model[part])) for part in ("backbone", "neck"))
    maps = neck(backbone.eval()(torch.zeros(1, 3, 64, 64)))
    assert [feature_map.shape[1] for feature_map in maps] == [256] * 5
    assert [level.stride for level in backbone.levels] == [4, 8, 16, 32]


def test_a_table_of_models(capsys: pytest.CaptureFixture) -> None:
    assert describe(["twins_pcpvt_*", "--size", "64", "64", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| model | family | channels | strides | size | parameters (M) |")
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| twins_pcpvt_{size}" for size in ("base", "large", "small")
    ]
    assert "| 64, 128, 320, 512 | 4, 8, 16, 32 | 64, 64 |" in lines[2]


def test_json_says_why_a_model_cannot_be_described(capsys: pytest.CaptureFixture) -> None:
    assert describe(["resnet18", "gmixer_12_224", "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert good["model"] == "resnet18"
    assert good["strides"] == [4, 8, 16, 32]
    assert good["parameters (M)"] == 11.18
    assert good["note"] == ""
    assert bad["channels"] is None
    assert "gmixer_12_224" in bad["note"]


def test_a_config_with_another_backbone(capsys: pytest.CaptureFixture) -> None:
    path = str(REPOSITORY / "configs/segmentation/fpn_swinv2-cr-tiny_2k_shapes.py")
    arguments = [
        path,
        "--backbone",
        "twins_svt_small",
        "--size",
        "64",
        "64",
        "--cfg-options",
        "model.neck.out_channels=256",
    ]
    assert describe(arguments) == 0
    printed = capsys.readouterr().out
    assert "EncoderDecoder" in printed
    assert "levels         channels [64, 128, 256, 512], strides [4, 8, 16, 32]" in printed
    assert "backbone 23.55" in printed


def test_a_config_that_ships_with_mmdet(capsys: pytest.CaptureFixture) -> None:
    assert describe(["mmdet::retinanet_r50_fpn_1x_coco", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["family"] == "RetinaNet"
    assert row["size"] == [800, 1344]
    assert row["parameters (M)"] == pytest.approx(37.97, abs=0.01)  # torchvision and mmdet state 38.0
    assert row["multiply-adds (G)"] == pytest.approx(250, rel=0.02)  # 239 at 800 x 1280


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to describe"),
        (["no_such_*"], "has no model of the pattern 'no_such_\\*'"),
        (["twins_svt_smal"], "Did you mean twins_svt_small"),
        (["configs/none.py"], "there is no config 'configs/none.py'"),
        (["twins_svt_small", "--backbone", "resnet18"], "--backbone and --cfg-options change a config: give one"),
        (["twins_svt_small", "--out-indices", "7"], "out_indices"),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(arguments)
