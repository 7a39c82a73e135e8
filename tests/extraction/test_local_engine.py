"""The local engine: several batches at once, as fast or slow as each may be; always the same bytes."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from small_images import read_all, tiny_extractor

from adapters.extraction import options
from adapters.extraction.extractor import Extractor
from adapters.extraction.inputs import find_images
from adapters.extraction.local_engine import Writer, run_locally
from adapters.extraction.options import STREAMS
from adapters.extraction.planning import Batch, make_plan, read_headers
from adapters.extraction.run import Summary, run_extraction

#: Small enough that the images come in batches of 1 to 3 shares of it.
SMALL = STREAMS * 2 * 64 * 64


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The number of torch's threads is put back, too."""
    before = torch.get_num_threads()
    monkeypatch.setattr(options, "BATCH_PIXELS", SMALL)
    yield
    torch.set_num_threads(before)


def go(images: Path, out: Path, cores: int, **options: Any) -> Summary:
    torch.set_num_threads(cores)
    summary = run_extraction(find_images([images]), tiny_extractor(**options), out, 0, progress=False)
    assert torch.get_num_threads() == cores
    return summary


def around(monkeypatch: pytest.MonkeyPatch, before: Callable[[Extractor, torch.Tensor], None]) -> None:
    """Have something done before each pass of a model."""
    forward = Extractor.__call__

    def passed(self: Extractor, pixels: torch.Tensor, sizes: Any) -> Any:
        before(self, pixels)
        return forward(self, pixels, sizes)

    monkeypatch.setattr(Extractor, "__call__", passed)


@pytest.mark.parametrize("cores", [2, 4, 7])
def test_neither_timing_nor_cores_change_a_byte(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    outputs = ("pyramid", "embedding", "top5")
    go(images, tmp_path / "one", 1, outputs=outputs, threads=4)
    chance = random.Random(cores)
    around(monkeypatch, lambda *_: time.sleep(chance.uniform(0, 0.03)))
    go(images, tmp_path / "many", cores, outputs=outputs, threads=4)
    assert read_all(tmp_path / "one") == read_all(tmp_path / "many")


def test_what_is_computed_at_once_is_bounded(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pixels, and so in memory, and in threads."""
    running: list[tuple[Extractor, int, int]] = []
    seen: list[tuple[int, int, int]] = []
    forward = Extractor.__call__

    def watched(self: Extractor, pixels: torch.Tensor, sizes: Any) -> Any:
        one = (self, pixels.numel() // 3, torch.get_num_threads())
        running.append(one)
        models, counts, threads = zip(*list(running), strict=True)
        seen.append((len(models), sum(counts), sum(threads)))
        try:
            time.sleep(0.01)
            return forward(self, pixels, sizes)
        finally:
            running.remove(one)

    monkeypatch.setattr(Extractor, "__call__", watched)
    assert go(images, tmp_path / "out", 4, threads=4).done == 24
    assert 1 < max(count for count, _, _ in seen) <= STREAMS
    assert max(pixels for _, pixels, _ in seen) <= SMALL
    assert max(threads for _, _, threads in seen) <= 4


def batches_of(images: Path, extractor: Extractor) -> tuple[Batch, ...]:
    paths = find_images([images])
    headers = read_headers(paths, extractor.reader, 0)
    return make_plan(paths, headers, extractor.preprocessing, extractor.pad_multiple, extractor.options).batches


def test_an_error_in_a_stream_ends_the_run(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("a bug")

    around(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="a bug"):
        go(images, tmp_path / "out", 4, threads=4)
    assert len(calls) < len(batches_of(images, tiny_extractor(threads=4)))
    assert not streams()


def test_an_error_in_writing_ends_the_streams(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when somebody lets go of the error."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("adapters.extraction.run.write_batch", fail)
    with pytest.raises(RuntimeError, match="a bug") as caught:
        go(images, tmp_path / "out", 4, threads=4)
    assert caught.value.__traceback__
    assert not streams()


@pytest.mark.parametrize("count", [4, 100])
def test_the_writer_writes_in_order_and_nothing_after_an_error(count: int) -> None:
    written: list[Any] = []

    def write(item: Any) -> None:
        time.sleep(0.01)
        if item == 3:
            raise OSError("full")
        written.append(item)

    handed: list[int] = []

    def hand_over(count: int) -> None:
        with Writer(write) as writer:
            for item in range(count):
                handed.append(item)
                writer.put(item)  # type: ignore[arg-type]

    with pytest.raises(OSError, match="full"):
        hand_over(count)
    assert written == [0, 1, 2]
    assert len(handed) <= 7
    assert not streams()


def streams() -> list[str]:
    """Threads of the engine that are there."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("compute", "writer"))]


def test_whoever_leaves_early_leaves_nothing_running(images: Path) -> None:
    torch.set_num_threads(4)
    extractor = tiny_extractor(threads=4)
    with closing(run_locally(extractor, batches_of(images, extractor), 0)) as computed:
        next(computed)
        assert streams()
    assert not streams()
    with ThreadPoolExecutor() as pool:  # a new thread takes the number that was set last
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 4


def test_memory_that_suffices_for_one_batch_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that found too little beside others is computed again when they are done."""
    go(images, tmp_path / "one", 1, threads=4)
    refused: list[Extractor] = []

    def refuse(self: Extractor, _: torch.Tensor) -> None:
        if len(refused) < 3:
            refused.append(self)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")

    around(monkeypatch, refuse)
    assert len(go(images, tmp_path / "out", 4, threads=4).failures) == 1
    assert read_all(tmp_path / "out") == read_all(tmp_path / "one")
