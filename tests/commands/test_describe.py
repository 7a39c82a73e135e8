"""``dense-adapters describe``: its output for models and configs, and its errors."""

import json
from pathlib import Path

import pytest

from adapters.commands.describe import main

REPOSITORY = Path(__file__).resolve().parents[2]


def test_printed_description_of_a_model(capsys: pytest.CaptureFixture) -> None:
    assert main(["twins_svt_small", "--size", "512", "512"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "twins_svt_small, served by TwinsAdapter",
        "images         mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375], RGB",
        "parameters     23.55 M",
        "at 512 x 512",
        "whole model    24.06 M, 2.93 G at 224 x 224",
    ):
        assert line in printed, printed


@pytest.mark.parametrize("mode", ["concat", "extract"])
def test_a_spatial_prior_is_counted_and_stands_in_the_lines(mode: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["vit_tiny_patch16_224", "--spatial-prior", mode]) == 0
    printed = capsys.readouterr().out
    assert f"pyramid=dict(type='SpatialPrior', mode='{mode}', out_channels=256)" in printed
    assert "in_channels=[256, 256, 256, 256]" in printed
    parameters = float(printed.split("parameters")[1].split()[0])
    assert parameters > 5.5  # of the trunk alone


def test_a_table_of_models(capsys: pytest.CaptureFixture) -> None:
    assert main(["twins_pcpvt_*", "--size", "64", "64", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| model | family | channels | strides | size | parameters (M) |")
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| twins_pcpvt_{size}" for size in ("base", "large", "small")
    ]
    assert "| 64, 128, 320, 512 | 4, 8, 16, 32 | 64, 64 |" in lines[2]


def test_json_says_why_a_model_cannot_be_described(capsys: pytest.CaptureFixture) -> None:
    assert main(["resnet18", "gmixer_12_224", "--json"]) == 1
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
        "model.backbone.batch_padding=exact",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "EncoderDecoder" in printed
    assert "levels         channels [64, 128, 256, 512], strides [4, 8, 16, 32]" in printed
    assert "backbone 23.55" in printed
    assert "images         mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375], RGB" in printed
    assert "batch padding  exact: the backbone makes one pass for each size" in printed


def test_a_config_for_five_channels(capsys: pytest.CaptureFixture) -> None:
    arguments = ["mmdet::retinanet_r18_fpn_1x_coco", "--backbone", "resnet18", "--size", "64", "64"]
    assert main([*arguments, "--cfg-options", "model.backbone.in_channels=5"]) == 0
    assert "images         not of three channels" in capsys.readouterr().out


def test_a_config_that_ships_with_mmdet(capsys: pytest.CaptureFixture) -> None:
    assert main(["mmdet::retinanet_r50_fpn_1x_coco", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["family"] == "RetinaNet"
    assert row["size"] == [800, 1344]
    assert row["parameters (M)"] == pytest.approx(37.97, abs=0.01)  # torchvision and mmdet state 38.0
    assert row["multiply-adds (G)"] == pytest.approx(250, rel=0.02)  # 239 at 800 x 1280


def test_a_recipe_of_ours_by_its_name(capsys: pytest.CaptureFixture) -> None:
    assert main(["adapters::retinanet_twins-svt-s_fpn_1x_coco", "resnet18", "--json"]) == 0
    model, recipe = json.loads(capsys.readouterr().out)
    assert model["family"] == "GenericAdapter"
    assert (recipe["family"], recipe["strides"]) == ("RetinaNet", [4, 8, 16, 32])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_*"], "has no model of the pattern 'no_such_\\*'"),
        (["twins_svt_smal"], "Did you mean twins_svt_small"),
        (["configs/none.py"], "there is no config 'configs/none.py'"),
        (["adapters::retinanet_twin"], "Did you mean adapters::detection/retinanet_twins"),
        (["mmdet::retinanet_r50_fpn_1x_coco", "--cfg-options", "crop"], "--cfg-options takes KEY=VALUE, got 'crop'"),
        (["twins_svt_small", "--backbone", "resnet18"], "--backbone and --cfg-options change a config: give one"),
        (["twins_svt_small", "--out-indices", "7"], "out_indices"),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments)
