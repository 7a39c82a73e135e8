"""The measurement of quantised adapters: a row for each way, and maps that are a little off."""

from pathlib import Path

import pytest
from lab import quantisation


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_every_way_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--models", "vit_tiny_patch16_224", "--size", "32", "48", "--repeats", "1", "--out", str(tmp_path)]
    assert quantisation.main(arguments) == 0
    table = (tmp_path / "quantisation.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[1] for row in rows] == list(quantisation.WAYS)
    for _, _, off, faster, size in rows:
        assert 0 < float(off.removesuffix("%")) < 10
        assert float(faster) > 0
        assert 0.2 < float(size) < 0.5
