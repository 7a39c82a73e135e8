"""Runs: killed and resumed, out of disk, out of memory; always the same bytes."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_images import COUNT, extract_tiny, fill_disk_after, read_all

import adapters
from adapters.extraction import run
from adapters.extraction.run_folder import JOURNAL, PLAN


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(images: Path, undisturbed: dict[str, bytes], tmp_path: Path, workers: int) -> None:
    extract_tiny(images, tmp_path / "out", workers=workers)
    assert read_all(tmp_path / "out") == undisturbed


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
        extract_tiny(images, out, workers=workers)
        status = 0
    finally:
        os._exit(status)


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
    extract_tiny(images, out)
    monkeypatch.setattr(run, "make_plan", None)
    summary = extract_tiny(images, out)
    assert (summary.done, summary.new, len(summary.failures)) == (COUNT, 0, 1)


def test_a_file_that_is_gone_is_made_again(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_tiny(images, out)
    next((out / "features").iterdir()).unlink()
    extract_tiny(images, out)
    assert read_all(out) == undisturbed


def test_a_full_disk_ends_the_run_cleanly(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill_disk_after(images, out, 7)
    assert len(list((out / "features").glob("*.safetensors"))) == 7
    assert not list(out.rglob("*.part"))
    assert not (out / "manifest.parquet").exists()
    extract_tiny(images, out)
    assert read_all(out) == undisturbed


def test_memory_that_does_not_suffice_is_tried_again(
    images: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    forward = adapters.TwinsAdapter.forward

    def fail_once(*_: Any) -> Any:
        monkeypatch.setattr(adapters.TwinsAdapter, "forward", forward)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(adapters.TwinsAdapter, "forward", fail_once)
    summary = extract_tiny(images, out)
    assert 1 < len(summary.failures) < COUNT
    assert any("out of memory" in reason and "smaller batch_size" in reason for _, reason in summary.failures)
    assert len(extract_tiny(images, out).failures) == 1
    assert read_all(out) == undisturbed
