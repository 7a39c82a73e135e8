"""``dense-adapters extract``: its arguments, summaries and exit codes."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import load_file
from small_images import TINY, make_images

import adapters
from adapters.commands.extract import main, make_parser, options_of
from adapters.extraction import run
from adapters.extraction.building import build_extractor, read_config
from adapters.extraction.manifest import read_manifest
from adapters.extraction.options import ExtractionOptions

TOOL = Path(__file__).resolve().parents[2] / "tools/extract_features.py"

CONFIG = """
custom_imports = dict(imports=["adapters"], allow_failed_imports=False)
model = dict(
    type="Anything",
    data_preprocessor=dict(mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0], bgr_to_rgb={bgr_to_rgb}),
    backbone=dict(type="{type}", {backbone}),
)
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return make_images(folder, 4)


def config(
    tmp_path: Path, bgr_to_rgb: bool = True, kind: str = "TimmAdapter", backbone: dict | None = None, bands: int = 3
) -> str:
    path = tmp_path / "config.py"
    options = TINY if backbone is None else backbone
    text = ", ".join(f"{key}={value!r}" for key, value in options.items())
    written = CONFIG.format(bgr_to_rgb=bgr_to_rgb, type=kind, backbone=text)
    if bands != 3:
        written = written.replace("[10.0, 20.0, 30.0]", f"[10.0] * {bands}").replace(
            "[50.0, 60.0, 70.0]", f"[50.0] * {bands}"
        )
    path.write_text(written)
    return str(path)


def test_a_config_decides_model_weights_and_normalisation(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    detector = torch.nn.Module()
    detector.backbone = adapters.create_adapter(**TINY)
    torch.save({"state_dict": detector.state_dict()}, tmp_path / "detector.pth")
    out = tmp_path / "out"
    arguments = [
        str(images),
        "--config",
        config(tmp_path),
        "--checkpoint",
        str(tmp_path / "detector.pth"),
        "--out",
        str(out),
    ]
    assert main([*arguments, "--workers", "0", "--levels", "1", "-1", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert f"{out}: 4 of 5 images" in printed.out
    assert "1 failed" in printed.err
    assert "broken.jpg: not an image that Pillow can read" in printed.err
    row = next(row for row in read_manifest(out) if row["status"] == "ok")
    assert row["strides"] == [8, 32]
    (found,) = adapters.extract(row["path"], detector.backbone.eval())
    pixels = torch.from_numpy(np.array(Image.open(row["path"]))).permute(2, 0, 1)
    fed = (pixels - torch.tensor([10.0, 20.0, 30.0])[:, None, None]) / torch.tensor([50.0, 60.0, 70.0])[:, None, None]
    with torch.no_grad():
        maps = detector.backbone(fed[None])
    tensors = load_file(out / row["file"])
    torch.testing.assert_close(tensors["level0"], maps[1][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tensors["level1"], maps[3][0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.maps[1], tensors["level0"], atol=1e-2)


def test_a_pyramid_for_a_token_model(images: Path, tmp_path: Path) -> None:
    tokens = {"model_name": "vit_small_patch16_224", "trunk": {"depth": 4, "embed_dim": 48, "num_heads": 4}}
    out = tmp_path / "out"
    arguments = ["--config", config(tmp_path, backbone=tokens), "--checkpoint", "random", "--pyramid", "TapPyramid"]
    outputs = ["--outputs", "pyramid,embedding,top5", "--device", "cpu", "--workers", "0"]
    assert main([str(images / "000.png"), *arguments, *outputs, "--out", str(out)]) == 0
    (row,) = read_manifest(out)
    assert row["strides"] == [4, 8, 16, 32]
    assert len(row["top5_class"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "twins_svt_smal", "--checkpoint", "random"], "Did you mean .*twins_svt_small"),
        (["--backbone", "twins_svt_small", "--checkpoint", "none.pth"], "'none.pth' is no file"),
        (["--backbone", "twins_svt_small", "--size", "a"], "--size a must be one side"),
        (["--backbone", "twins_svt_small", "--outputs", "maps"], "outputs='maps' must be one or more"),
        (
            ["--backbone", "resnet18", "--checkpoint", "random", "--device", "cuda:77"],
            "device='cuda:77' cannot be used",
        ),
        (["--backbone", "resnet18", "--outputs", "embedding", "--visualize"], "--visualize draws the pyramid"),
        (["--backbone", "resnet18", "--checkpoint", "random", "--outputs", "cls"], "resnet18 has no class token"),
        (["--backbone", "resnet18", "--checkpoint", "random", "--out-norm"], "resnet18 has no final norm"),
        (["--backbone", "resnet18", "--white", "1,99"], "--white 1,99 must be a number; percentiles are --percentiles"),
        (["--backbone", "resnet18", "--percentiles", "1"], "--percentiles 1 must be two of 0 to 100"),
        (["--backbone", "resnet18", "--black", "5"], "black=5 needs white="),
        (["--config", "none.py"], "there is no config 'none.py'"),
        (["--config", "adapters::retinanet_twin"], "Did you mean adapters::detection/retinanet_twins"),
        (["--config", "CONFIG"], "names no weights .*--checkpoint random"),
        (["--config", "OTHER"], "ResNet, is no adapter"),
    ],
    ids=str,
)
def test_mistakes(images: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    replaced = {"CONFIG": config(tmp_path)} if "CONFIG" in arguments else {}
    if "OTHER" in arguments:
        replaced = {"OTHER": config(tmp_path, kind="ResNet")}
    words = [replaced.get(word, word) for word in arguments]
    device = [] if "--device" in words else ["--device", "cpu"]
    with pytest.raises(ValueError, match=message):
        main([str(images), *words, *device, "--out", str(tmp_path / "out")])


def test_blue_first_where_the_config_does_not_convert(tmp_path: Path) -> None:
    model, fields = read_config(config(tmp_path, bgr_to_rgb=False))
    assert model["model_name"] == TINY["model_name"]
    assert fields == {"mean": (10 / 255, 20 / 255, 30 / 255), "std": (50 / 255, 60 / 255, 70 / 255), "bgr": True}


def test_a_resumed_run_keeps_its_threads(tmp_path: Path) -> None:
    arguments = ["x", "--backbone", "resnet18", "--out", str(tmp_path)]
    (tmp_path / "run.json").write_text('{"threads": 7}')
    assert options_of(make_parser().parse_args(arguments), "pyramid", tmp_path).threads == 7
    assert options_of(make_parser().parse_args([*arguments, "--threads", "3"]), "pyramid", tmp_path).threads == 3


def test_dark_and_missing_images_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 50), dtype=np.uint16)
    Image.fromarray(pixels).save(folder / "xray.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    arguments = [
        str(folder),
        "--backbone",
        "test_resnet",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    assert main([*arguments, "--out", str(tmp_path / "dark")]) == 1
    printed = capsys.readouterr().err
    assert f"1 of them nearly black (note in the manifest), such as {folder}/xray.png, dark: the maximum is" in printed
    assert "--white 4095" in printed
    assert f"{folder}/gone.png: no such file: a link to nowhere.png, which is not there" in printed
    gone, xray = read_manifest(tmp_path / "dark")
    assert (gone["status"], gone["note"], xray["status"]) == ("failed", None, "ok")
    assert xray["note"] == f"dark: the maximum is {pixels.max()} of 65535"
    main([*arguments, "--out", str(tmp_path / "bright"), "--white", "4095"])
    assert "black" not in capsys.readouterr().err
    maps = [
        load_file(tmp_path / out / read_manifest(tmp_path / out)[1]["file"])["level0"] for out in ("dark", "bright")
    ]
    assert not torch.allclose(*maps, rtol=0.01)
    with pytest.raises(ValueError, match=r"white 4095\.0 instead of null"):
        main([*arguments, "--out", str(tmp_path / "dark"), "--white", "4095"])


def test_bands_tokens_and_norms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bands = np.random.default_rng(0).integers(0, 65536, (40, 50, 6), dtype=np.uint16)
    np.save(tmp_path / "bands.npy", bands)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="contig")
    tokens = {"model_name": "vit_small_patch14_reg4_dinov2", "trunk": {"depth": 2, "embed_dim": 48, "num_heads": 4}}
    common = [str(tmp_path / "bands.*"), "--config", config(tmp_path, backbone={**tokens, "in_channels": 6}, bands=6)]
    common += ["--checkpoint", "random", "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "out")]
    assert main([*common, "--outputs", "pyramid,cls,registers", "--out-norm", "--visualize"]) == 0
    first, second = (load_file(tmp_path / "out" / row["file"]) for row in read_manifest(tmp_path / "out"))
    assert {key: tuple(value.shape) for key, value in first.items()} == {
        **{"level0": (48, 3, 4), "level1": (48, 3, 4), "cls": (48,), "registers": (4, 48)}
    }
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(ValueError, match="out_norm false instead of true"):
        main([*common, "--outputs", "pyramid,cls,registers"])
    with pytest.raises(ValueError, match="normalise 6 bands, and the model takes 3: give one for each"):
        main([*common, "--in-channels", "3"])
    plain = [str(tmp_path / "bands.tif"), "--backbone", "test_resnet", "--checkpoint", "random", "--device", "cpu"]
    assert main([*plain, "--out", str(tmp_path / "three"), "--workers", "0"]) == 1
    assert "6 bands, and the model takes 3: convert the image, or build the model with" in capsys.readouterr().err
    assert main([*plain, "--out", str(tmp_path / "six"), "--workers", "0", "--in-channels", "6"]) == 0


def test_what_is_missing_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = build_extractor(TINY, ExtractionOptions(), "random")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"dense-adapters\[extract\]"):
        run.run_extraction([images / "000.png"], extractor, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"dense-adapters\[ray\]"):
        run.run_extraction([images / "000.png"], extractor, tmp_path / "out", engine="ray")
    with pytest.raises(ValueError, match="engine='spark' must be one of local, ray"):
        run.run_extraction([images / "000.png"], extractor, tmp_path / "out", engine="spark")


@pytest.mark.slow
def test_the_tools_end_to_end(images: Path, tmp_path: Path) -> None:
    """As commands: an error in one line, and a run with sheets."""
    command = [sys.executable, str(TOOL), str(images), "--backbone", "test_vit", "--checkpoint", "random"]
    command += ["--size", "64", "--device", "cpu"]
    wrong = subprocess.run([*command, "--out", str(images / "000.png" / "x")], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith(f"error: {images}/000.png/x could not be written")
    assert "Traceback" not in wrong.stderr
    out = tmp_path / "out"
    done = subprocess.run([*command, "--out", str(out), "--visualize"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert f"gallery: {out}/index.html" in done.stdout
    assert len(list((out / "sheets").iterdir())) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_one_line(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """And a second one at once."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    second = []

    def interrupt(*_: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            second.append(signal.getsignal(number))

    monkeypatch.setattr("adapters.extraction.run.run_locally", interrupt)
    arguments = [str(images), "--backbone", "test_vit", "--checkpoint", "random", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--size", "64", "--out", str(tmp_path / "out")])
    assert ended.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert second == [signal.SIG_DFL]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
