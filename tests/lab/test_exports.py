"""The measurement of exports: the cells of a model, the page that is made of them, and families that are unknown."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lab.coverage.report import render as render_coverage
from lab.coverage.representatives import Representative
from lab.exports import measure, timing
from lab.exports.command import COVERAGE, main
from lab.exports.report import render, totals

from adapters.export.backbones import export_backbone
from adapters.files import read_json

ROWS = {
    "resnet": {"model": "resnet10t", "adapters": {"onnx free": "ok", "onnx fixed": "ok"}, "timm": {"build": "ok"}},
    "swin": {"model": "swin_tiny", "adapters": {"onnx free": "built for | one size", "onnx fixed": "ok"}},
    "vit": {"model": "vit_tiny"},
}


def test_totals_are_of_what_is_measured() -> None:
    assert totals(ROWS)["adapters"] == {"onnx free": 1, "onnx fixed": 2}
    page = render(ROWS)
    assert "|\n\n| family | model |" in page
    assert "| ONNX, any height and width | 1 of 2 | 0 of 1 |" in page
    assert "| swin | `swin_tiny` | no | yes |" in page
    assert "| vit | `vit_tiny` |  |  |" in page
    assert "- **swin**, ONNX, any height and width: built for \\| one size\n" in page


def test_coverage_has_two_more_columns_where_there_are_exports() -> None:
    table = read_json(COVERAGE)
    plain, with_exports = render_coverage(table), render_coverage(table, {"families": {"beit": ROWS["swin"]}})
    assert "export free |" not in plain
    assert "| export fixed | export free |" in with_exports
    (line,) = (line for line in with_exports.splitlines() if line.startswith("| beit |"))
    assert line.endswith("| yes | no |")


def test_a_peer_is_exported_as_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "FILES", {"pt2 fixed": ("pt2", (32, 64))})
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    one = Representative("resnet", "test_resnet", 0, (160, 160))
    assert dict(measure.measure_timm(one)) == {"build": "ok", "pt2 fixed": "ok"}


def test_an_unknown_family(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timm has no family vit; it has beit"):
        main(["--families", "vit", "--page", str(tmp_path / "page.md")])


def test_a_file_takes_turns_with_its_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_one_size(adapter: Any, path: Path) -> None:
        export_backbone(adapter, path, size=(64, 96), batch=1)

    monkeypatch.setattr(timing, "export_backbone", of_one_size)
    options = ["--size", "64", "96", "--repeats", "2", "--threads", str(torch.get_num_threads())]
    assert timing.main(["--models", "test_resnet", *options, "--out", str(tmp_path)]) == 0
    heads, _, line = (tmp_path / "results.md").read_text().splitlines()
    assert heads == "| model | torch | onnxruntime | time | difference |"
    name, *times, ratio, difference = line.strip("| ").split(" | ")
    assert name == "`test_resnet`"
    assert all(time.endswith(" ms") for time in times)
    assert float(ratio) > 0
    assert float(difference) < 1e-4
