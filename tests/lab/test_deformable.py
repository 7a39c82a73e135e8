"""The measurement of deformable attention: both sides of each case are measured, and compute the same."""

from pathlib import Path

import pytest
from lab import deformable


def test_the_table_has_both_sides_of_each_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deformable.main(["--size", "64", "96", "--repeats", "1", "--out", str(tmp_path)]) == 0
    table = (tmp_path / "deformable.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == list(deformable.CASES)
    assert all(float(row[3]) > 0 and float(row[-1]) < 1e-5 for row in rows)
