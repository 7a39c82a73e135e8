"""``dense-adapters visualize``: models side by side, resumed on a machine of other cores."""

from pathlib import Path

import pytest
import torch
from small_images import make_images, read_all

from adapters.commands.visualize import main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return make_images(folder, 4)


def test_two_models_side_by_side(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [str(images), "--size", "64", "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "out")]
    models = ["--backbone", "test_vit", "test_resnet"]
    with pytest.raises(ValueError, match="--checkpoint names 3 for 2 models"):
        main([*common, *models, "--checkpoint", "a", "b", "c"])
    assert main([*common, *models, "--checkpoint", "random"]) == 1
    assert "index.html" in capsys.readouterr().out
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<figure>") == 4
    assert "Features of test_vit, random weights and test_resnet, random weights" in page
    before = read_all(tmp_path / "out")
    assert torch.get_num_threads() != 7  # as on another machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert main([*common, *models, "--checkpoint", "random"]) == 1
    assert read_all(tmp_path / "out") == before


def test_a_recipe_beside_a_model(images: Path, tmp_path: Path) -> None:
    """A recipe's backbone comes with its own options and normalisation."""
    arguments = [str(images / "000.png"), "--size", "64", "--device", "cpu", "--workers", "0", "--checkpoint", "random"]
    recipe = "adapters::retinanet_twins-svt-s_fpn_demo_shapes"
    assert main([*arguments, "--backbone", recipe, "test_resnet", "--out", str(tmp_path / "out")]) == 0
    assert f"Features of {recipe}, random weights and test_resnet" in (tmp_path / "out/index.html").read_text()
