"""Runs into a folder: killed and resumed, refused, out of disk, over two engines; always the same bytes."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_images import TINY, make_images, read_all, tiny_extractor

import adapters
from adapters.extraction import run
from adapters.extraction import run_folder as folder
from adapters.extraction.disk import write_file
from adapters.extraction.feature_files import safetensors_chunks
from adapters.extraction.inputs import find_images
from adapters.extraction.manifest import read_manifest
from adapters.extraction.run import Summary, run_extraction
from adapters.extraction.run_folder import JOURNAL, PLAN

COUNT = 24


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    go(images, out)
    return read_all(out)


def go(images: Path, out: Path, engine: str = "local", workers: int = 0, **options: Any) -> Summary:
    return run_extraction(find_images([images]), tiny_extractor(**options), out, workers, engine, progress=False)


def start(images: Path, out: Path, workers: int = 1) -> int:
    """A run in a process of its own; it ends without the interpreter's clean-up, as if it were not Python's child."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        replace = os.replace

        def slow_replace(source: Path, target: Path) -> None:
            time.sleep(0.02)
            replace(source, target)
            time.sleep(0.02)

        os.replace = slow_replace
        go(images, out, workers=workers)
        status = 0
    finally:
        os._exit(status)


def test_files_and_manifest_hold_what_the_adapter_gives(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = go(images, out, outputs=("pyramid", "embedding", "top5"))
    paths = find_images([images])
    assert (summary.total, summary.done, summary.new) == (COUNT + 1, COUNT, COUNT)
    ((broken, reason),) = summary.failures
    assert broken.endswith("broken.jpg")
    assert "Pillow" in reason
    rows = pyarrow.parquet.read_table(out / "manifest.parquet").to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert len({row["file"] for row in rows if row["file"]}) == COUNT
    extractor = tiny_extractor(outputs=("pyramid", "embedding", "top5"))
    for row in rows:
        if row["status"] == "failed":
            continue
        with Image.open(row["path"]) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        assert (row["original_height"], row["original_width"]) == tuple(pixels.shape[1:])
        assert (row["fed_height"], row["fed_width"]) == tuple(pixels.shape[1:])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            maps = extractor.adapter(((pixels - mean) / std)[None])
            logits = extractor.adapter.trunk.forward_head(extractor.adapter.final)[0]
            embedding = extractor.adapter.trunk.forward_head(extractor.adapter.final, pre_logits=True)[0]
        tensors = load_file(out / row["file"])
        assert set(tensors) == {"level0", "level1", "level2", "level3", "embedding", "top5_index", "top5_probability"}
        for index, feature_map in enumerate(maps):
            torch.testing.assert_close(tensors[f"level{index}"], feature_map[0], rtol=1e-4, atol=1e-4)
        assert row["strides"] == [level.stride for level in extractor.levels]
        assert row["channels"] == [feature_map.shape[1] for feature_map in maps]
        torch.testing.assert_close(tensors["embedding"], embedding, rtol=1e-4, atol=1e-4)
        best = logits.softmax(0).topk(5)
        assert row["top5_index"] == best.indices.tolist()
        torch.testing.assert_close(torch.tensor(row["top5_probability"]), best.values, rtol=1e-4, atol=1e-4)
        assert row["top5_class"][0]
        assert row["dtype"] == "float32"
        assert row["bytes"] == (out / row["file"]).stat().st_size


def test_the_checksum_is_that_of_the_file(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(images, out)
    assert read_all(out) == undisturbed
    for row in read_manifest(out):
        if row["file"]:
            assert hashlib.sha256((out / row["file"]).read_bytes()).hexdigest() == row["checksum"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(images: Path, undisturbed: dict[str, bytes], tmp_path: Path, workers: int) -> None:
    go(images, tmp_path / "out", workers=workers)
    assert read_all(tmp_path / "out") == undisturbed


def test_killed_at_any_moment_and_started_again(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Nothing that was finished is made again, and in the end every byte is that of an undisturbed run."""
    out = tmp_path / "out"
    chance = random.Random(5)
    kills = 0
    finished: dict[str, tuple[int, int]] = {}
    for _ in range(200):
        pid = start(images, out)
        deadline = time.monotonic() + chance.uniform(0.0, 0.3)  # a third of the run at most
        ended = 0
        while time.monotonic() < deadline and not ended:
            ended, _status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            os.kill(pid, signal.SIGKILL)  # the run alone: its workers learn of it by themselves
            os.waitpid(pid, 0)
            kills += 1
        for name, state in finished.items():
            status = (out / name).stat()
            assert (status.st_ino, status.st_mtime_ns) == state, f"{name} was written again"
        if ended:
            break
        finished = journaled(out)
    assert kills >= 3
    assert read_all(out) == undisturbed
    assert not list(out.rglob("*.part"))
    assert not (out / JOURNAL).exists()
    assert not (out / PLAN).exists()


def journaled(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file that the journal calls finished."""
    journal = out / JOURNAL
    checksums = set()
    for line in journal.read_bytes().splitlines(keepends=True) if journal.exists() else []:
        if line.endswith(b"\n"):
            checksums.add(json.loads(line)["checksum"])
    return {
        f"features/{file.name}": (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in (out / "features").glob("*.safetensors")
        if hashlib.sha256(file.read_bytes()).hexdigest() in checksums
    }


def test_a_finished_run_does_nothing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    go(images, out)
    monkeypatch.setattr(run, "make_plan", None)
    summary = go(images, out)
    assert (summary.done, summary.new, len(summary.failures)) == (COUNT, 0, 1)


def test_a_file_that_is_gone_is_made_again(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(images, out)
    next((out / "features").iterdir()).unlink()
    go(images, out)
    assert read_all(out) == undisturbed


def test_a_torn_line_of_the_journal_is_dropped(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_after(images, out, 5)
    journal = out / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    go(images, out)
    assert read_all(out) == undisturbed


def stop_after(images: Path, out: Path, files: int, error: int = 28) -> None:
    """A run on a disk that is full after so many files."""
    real, written = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if target.suffix == ".safetensors":
            if len(written) == files:
                raise OSError(error, os.strerror(error))
            written.append(target)
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(ValueError, match=r"could not be written: .*run the same command again"):
            go(images, out)


def test_a_full_disk_ends_the_run_cleanly(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_after(images, out, 7)
    assert len(list((out / "features").glob("*.safetensors"))) == 7
    assert not list(out.rglob("*.part"))
    assert not (out / "manifest.parquet").exists()
    go(images, out)
    assert read_all(out) == undisturbed


def test_two_runs_refuse_each_other(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PATIENCE", 0.05)
    out = tmp_path / "out"
    with folder.locked(out), pytest.raises(ValueError, match=r"another run is writing into .*--out"):
        go(images, out)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"size": (32, 48)}, r"size \[32, 48\] instead of null"),
        ({"batch_size": 3}, "batch_size 3 instead of 4"),
        ({"seed": 1}, "weights .* instead of"),
        ({"outputs": ("embedding",)}, "outputs"),
        ({"amp": True}, "amp true instead of false"),
    ],
    ids=str,
)
def test_other_options_are_refused(images: Path, tmp_path: Path, options: dict[str, Any], difference: str) -> None:
    out = tmp_path / "out"
    stop_after(images, out, 0)
    with pytest.raises(ValueError, match=difference):
        go(images, out, **options)


def test_other_images_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_after(images, out, 0)
    with pytest.raises(ValueError, match=f"images 1 instead of {COUNT + 1}"):
        go(next(images.glob("*.png")), out)


def test_a_folder_of_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds something else \(thesis.tex\)"):
        go(images, tmp_path)


def test_memory_that_does_not_suffice_is_tried_again(
    images: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    forward = adapters.TwinsAdapter.forward

    def fail_once(*_: Any) -> Any:
        monkeypatch.setattr(adapters.TwinsAdapter, "forward", forward)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(adapters.TwinsAdapter, "forward", fail_once)
    summary = go(images, out)
    assert 1 < len(summary.failures) < COUNT
    assert any("out of memory" in reason and "smaller batch_size" in reason for _, reason in summary.failures)
    assert len(go(images, out).failures) == 1
    assert read_all(out) == undisturbed


def test_values_that_are_not_finite_are_a_failure(images: Path, tmp_path: Path) -> None:
    extractor = tiny_extractor()
    with torch.no_grad():
        next(extractor.adapter.parameters()).fill_(torch.nan)
    summary = run_extraction(find_images([images]), extractor, tmp_path / "out", 0, progress=False)
    assert summary.done == 0
    assert "NaN or infinity in level0" in dict(summary.failures)[str(find_images([images])[0])]


def test_amp_keeps_bfloat16_on_the_cpu(images: Path, tmp_path: Path) -> None:
    go(images, tmp_path / "out", amp=True)
    row = next(row for row in read_manifest(tmp_path / "out") if row["status"] == "ok")
    assert row["dtype"] == "bfloat16"
    assert load_file(tmp_path / "out" / row["file"])["level0"].dtype == torch.bfloat16


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_resumes(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_after(images, out, 5)
    before = {file: file.stat().st_mtime_ns for file in (out / "features").iterdir()}
    go(images, out, engine="ray", workers=2)
    assert read_all(out) == undisturbed
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in before.items())


def test_python_gives_the_same_as_the_folder(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = tiny_extractor(outputs=("pyramid", "embedding")).options
    go(images, out, outputs=("pyramid", "embedding"))
    rows = read_manifest(out)
    found = list(adapters.extract(images, TINY, "random", options))
    assert sorted(item.index for item in found) == list(range(COUNT + 1))
    for item in found:
        row = rows[item.index]
        assert str(item.path) == row["path"]
        assert item.reason == row["reason"]
        if item.reason is None:
            tensors = load_file(out / row["file"])
            assert all(torch.equal(m, tensors[f"level{index}"]) for index, m in enumerate(item.maps))
            assert torch.equal(item.embedding, tensors["embedding"])
            assert [level.stride for level in item.levels] == row["strides"]


def test_python_takes_a_built_adapter(images: Path) -> None:
    backbone = adapters.create_adapter(**TINY, out_indices=(1, 2))
    image = next(images.glob("*.png"))
    (found,) = adapters.extract(image, backbone)
    assert [m.shape[0] for m in found.maps] == [level.channels for level in backbone.levels]
    with pytest.raises(ValueError, match="give the model's name"):
        next(adapters.extract(image, backbone, options=adapters.ExtractionOptions(outputs=("embedding",))))


def test_the_files_are_those_of_safetensors(tmp_path: Path) -> None:
    """Read by the library, of every type, and aligned."""
    tensors = {
        "level0": torch.randn(3, 5, 7),
        "level1": torch.randn(2, 3, 1).bfloat16(),
        "level2": torch.randn(4, 1, 3).half(),
        "top5_index": torch.arange(5),
    }
    path = tmp_path / "file.safetensors"
    write_file(path, *safetensors_chunks(tensors))
    loaded = load_file(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0
