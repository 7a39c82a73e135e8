"""``adapters::NAME``, ``mmdet::NAME`` and ``mmseg::NAME``: configs that ship with installed packages."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.openmmlab.config_files import find_config, shipped_configs


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        (
            "adapters::detection/retinanet_twins-svt-s_fpn_1x_coco",
            "configs/detection/retinanet_twins-svt-s_fpn_1x_coco.py",
        ),
        ("adapters::fpn_swinv2-cr-tiny_2k_shapes", "configs/segmentation/fpn_swinv2-cr-tiny_2k_shapes.py"),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco", "retinanet/retinanet_r50_fpn_1x_coco.py"),
        ("mmdet::retinanet_r50_fpn_1x_coco.py", "retinanet/retinanet_r50_fpn_1x_coco.py"),
        ("mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py", "sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"),
    ],
)
def test_a_shipped_config_is_found_by_its_name(name: str, tail: str) -> None:
    path = find_config(name)
    assert path.is_file()
    assert path.as_posix().endswith(tail)


@pytest.mark.parametrize(("package", "least"), [("mmdet", 300), ("mmseg", 300), ("adapters", 70)])
def test_every_shipped_config_is_found(package: str, least: int) -> None:
    configs = shipped_configs(package)
    assert len(configs) > least
    assert all(find_config(f"{package}::{name}") == path for name, path in list(configs.items())[::25])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", r"there is no config 'nowhere\.py'.*mmdet::retinanet_r50_fpn_1x_coco"),
        ("mmrotate::x", r"names the package 'mmrotate'; it must be one of adapters, mmdet, mmseg"),
        ("adapters::retinanet_twins_svt-s", r"Did you mean adapters::detection/retinanet_twins-svt-s"),
        ("mmdet::retinanet_r50_fpn_1x_cocoo", r"no config.*Did you mean .*mmdet::retinanet/retinanet_r50_fpn_1x_coco"),
        ("mmdet::retinanet", r"Did you mean mmdet::\w+/.*retinanet"),
        ("mmseg::zzzzzz", r"ships no config 'zzzzzz'\. Its configs lie in .*configs"),
    ],
)
def test_an_unknown_name_gets_near_matches(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_config(name)


def test_a_name_in_two_folders_must_say_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, ("a/same.py", "b/same.py", "_base_/same.py"))
    with pytest.raises(ValueError, match=r"could be any of mmdet::a/same, mmdet::b/same: give the folder"):
        find_config("mmdet::same")
    assert find_config("mmdet::b/same") == tmp_path / "mmdet/.mim/configs/b/same.py"


def test_packages_without_configs_or_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, ())
    with pytest.raises(ValueError, match=r"the installed mmdet \(.*\) has no configs"):
        find_config("mmdet::x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"mmdet is not installed.*pip install"):
        find_config("mmdet::x")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]) -> None:
    """Pretend that a package with these configs is installed."""
    for name in files:
        path = folder / "mmdet/.mim/configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    spec = SimpleNamespace(origin=str(folder / "mmdet" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
