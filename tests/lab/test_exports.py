"""The measurement of exports: the cells of a model, the page that is made of them, and families that are unknown."""

from pathlib import Path

import pytest
from lab.coverage.report import render as render_coverage
from lab.coverage.representatives import Representative
from lab.exports import measure
from lab.exports.command import COVERAGE, main
from lab.exports.report import render, totals

from adapters.files import read_json

ROWS = {
    "resnet": {"model": "resnet10t", "adapters": {"onnx free": "ok", "onnx fixed": "ok"}, "timm": {"build": "ok"}},
    "swin": {"model": "swin_tiny", "adapters": {"onnx free": "built for | one size", "onnx fixed": "ok"}},
    "vit": {"model": "vit_tiny"},
}


def test_totals_are_of_what_is_measured() -> None:
    assert totals(ROWS)["adapters"] == {"onnx free": 1, "onnx fixed": 2}
    page = render(ROWS)
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
