"""The wheel: built from the sources, installed into an empty environment, and used from another folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

import adapters

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("adapters", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")

#: A module of the environment that hides OpenMMLab, or its compiled operators, where it is asked to.
SITECUSTOMIZE = """
import os, sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("mmengine", "mmcv", "mmdet", "mmseg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

class NotCompiled:
    def find_spec(self, name, *_):
        if name == "mmcv._ext":
            from adapters.openmmlab.operators.finder import OperatorFinder
            return OperatorFinder().find_spec(name, None)

if "WITHOUT_OPENMMLAB" in os.environ:
    sys.meta_path.insert(0, Absent())
if "WITHOUT_COMPILED_OPERATORS" in os.environ:
    sys.meta_path.insert(0, NotCompiled())
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, where no earlier build has left modules behind."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, sources / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(sources)], check=True, timeout=200)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment that holds the wheel, and sees third-party packages where this one keeps them."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=100)
    (site,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-index", "--no-deps", str(wheel)], check=True, timeout=200)
    # A path in a .pth file does not have that folder's own .pth files read, so no editable install comes with it.
    (site / "third_party.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with four images and their COCO json."""
    images, notes = [], []
    (tmp_path / "images").mkdir()
    for number in range(4):
        name = f"{number}.png"
        Image.new("RGB", (96, 80), (60 * number, 90, 200)).save(tmp_path / "images" / name)
        images.append({"id": number, "file_name": name, "width": 96, "height": 80})
        box = [10 + number, 12, 40, 30]
        notes.append({"id": number + 1, "image_id": number, "category_id": 1, "bbox": box, "area": 1200, "iscrowd": 0})
    coco = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "ellipse"}]}
    (tmp_path / "notes.json").write_text(json.dumps(coco))
    return tmp_path


def run(environment: Path, folder: Path, *command: str, **variables: str) -> str:
    """Run a program of the environment; return its output."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env={**inherited, "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


def test_the_library_and_its_recipes_are_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "adapters").rglob("*.py")}
    expected |= {f"adapters/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "configs").rglob("*.py")}
    expected |= {"adapters/py.typed", "adapters/listing.json", "adapters/configs/metafile.yaml"}
    assert names >= expected
    others = {name for name in names - expected if ".dist-info/" not in name}
    assert others == {"adapters/configs/README.md"}


def test_the_installed_package_is_the_one_that_runs(environment: Path, tmp_path: Path) -> None:
    code = "import importlib.util; print(importlib.util.find_spec('adapters').origin)"  # which imports nothing
    assert Path(run(environment, tmp_path, "python", "-c", code).strip()).is_relative_to(environment)
    assert run(environment, tmp_path, "dense-adapters", "--version").split() == ["dense-adapters", adapters.__version__]


def test_a_model_is_described_with_torch_and_timm_alone(environment: Path, tmp_path: Path) -> None:
    code = "import mmengine"
    with pytest.raises(AssertionError, match="No module named 'mmengine'"):
        run(environment, tmp_path, "python", "-c", code, WITHOUT_OPENMMLAB="1")
    command = ("dense-adapters", "describe", "resnet10t")
    printed = run(environment, tmp_path, *command, WITHOUT_OPENMMLAB="1")
    assert "resnet10t, served by GenericAdapter" in printed
    assert "stride 32: 512 channels" in printed


def test_a_recipe_trains_on_a_coco_json_of_ones_own_without_compiled_operators(
    environment: Path, elsewhere: Path
) -> None:
    data = {"data_root": f"{elsewhere}/", "ann_file": "notes.json", "data_prefix.img": "images/"}
    overrides = [
        f"{loader}_dataloader.dataset.{key}={value}" for loader in ("train", "val") for key, value in data.items()
    ]
    overrides += [f"{loader}_dataloader.dataset.metainfo.classes=('ellipse',)" for loader in ("train", "val")]
    overrides += ["train_cfg.max_iters=2", "train_cfg.val_interval=2", f"val_evaluator.ann_file={elsewhere}/notes.json"]
    overrides += ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    overrides += ["val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"]
    overrides += ["train_dataloader.batch_size=2", "model.bbox_head.num_classes=1", "default_hooks.logger.interval=1"]
    recipe = "adapters::detection/retinanet_twins-svt-s_fpn_demo_shapes"
    command = ("dense-adapters", "train", recipe, "--backbone", "test_resnet", "--work-dir", "run", "--cfg-options")
    printed = run(environment, elsewhere, *command, *overrides, WITHOUT_COMPILED_OPERATORS="1")
    assert printed.count("mmcv has no compiled operators") == 1
    (scalars,) = (elsewhere / "run").glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    assert (elsewhere / "run" / "iter_2.pth").is_file()


def test_features_are_extracted(environment: Path, elsewhere: Path) -> None:
    model = ("--backbone", "test_resnet", "--checkpoint", "random", "--device", "cpu", "--workers", "0")
    run(
        environment,
        elsewhere,
        "dense-adapters",
        "extract",
        "images",
        *model,
        "--out",
        "features",
        WITHOUT_OPENMMLAB="1",
    )
    files = sorted((elsewhere / "features").rglob("*.safetensors"))
    assert len(files) == 4
    with safe_open(files[0], "pt") as tensors:
        assert tuple(tensors.get_tensor("level0").shape[1:]) == (20, 24)
