"""Plans: which images share a batch, and which are refused."""

from pathlib import Path

import numpy as np
from PIL import Image
from small_images import picture, tiny_extractor

from adapters.extraction.inputs import find_images
from adapters.extraction.manifest import read_manifest
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.planning import make_plan, read_headers
from adapters.extraction.run import run_extraction


def test_100_megapixels_get_a_line_or_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (10_000, 10_000), 77).save(tmp_path / "in/large.png", compress_level=1)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "in/one.png")
    paths = find_images([tmp_path / "in"])
    summary = run_extraction(paths, tiny_extractor(), tmp_path / "own", 0, progress=False)
    ((name, reason),) = summary.failures
    assert name.endswith("large.png")
    assert "100.0 megapixels (10000 x 10000), more than are fed: max_pixels is 25" in reason
    rows = read_manifest(tmp_path / "own")
    assert (rows[0]["original_height"], rows[0]["fed_height"]) == (10_000, None)
    assert (rows[1]["status"], rows[1]["fed_height"], rows[1]["fed_width"]) == ("ok", 1, 1)
    scaled = run_extraction(paths, tiny_extractor(size=(64,)), tmp_path / "scaled", 0, progress=False)
    assert scaled.done == 2
    assert [row["fed_width"] for row in read_manifest(tmp_path / "scaled")] == [64, 64]


def test_batches_share_a_padded_size_and_depend_on_nothing_else(tmp_path: Path) -> None:
    sizes = [(30, 40), (64, 64), (32, 64), (33, 40), (20, 33), (2000, 3000), (40, 30), (2016, 3008), "unreadable"]
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    preprocessing = tiny_extractor().preprocessing
    plan = make_plan(paths, sizes, preprocessing, 32, ExtractionOptions(batch_size=2))
    assert [([entry.index for entry in batch.entries], batch.size) for batch in plan.batches] == [
        ([0, 2], (32, 64)),
        ([1, 3], (64, 64)),
        ([5], (2016, 3008)),
        ([7], (2016, 3008)),
        ([4], (32, 64)),
        ([6], (64, 32)),
    ]
    assert plan.refused == {8: (None, "unreadable")}


def test_headers_are_read_by_processes_alike(tmp_path: Path) -> None:
    picture(8, 9, np.random.default_rng(0)).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png", tmp_path / "gone.png"] * 500
    reader = tiny_extractor().reader
    assert read_headers(paths, reader, 2) == read_headers(paths, reader, 0) == [(8, 9), "no such file"] * 500
