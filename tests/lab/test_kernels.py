"""The measurement of the kernels: every kernel that it names can be switched off, and the table has its rows."""

from pathlib import Path

import pytest
import torch
from lab import kernels
from zoo import ZOO, image

from adapters.kernels import cpu


def test_each_kernel_is_measured_where_it_can_take_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--models", "twins_svt_small", "--size", "32", "64", "--repeats", "1", "--out", str(tmp_path)]
    assert kernels.main(arguments) == 0
    table = (tmp_path / "kernels.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    slow = cpu.FUSED_BF16_ATTENTION_IS_SLOW
    assert [tuple(row[index] for index in (0, 2, 3)) for row in rows] == [
        *((name, dtype, "forward") for name in ("MLP", "chunks of the MLP") for dtype in ("fp32", "bf16")),
        *([("windows unfused", "bf16", "forward")] if slow else []),
        ("windows unfused", "bf16", "train"),
        *([("long attention", "bf16", "forward")] if slow else []),
    ]
    assert all(float(row[-1]) > 0 for row in rows)


@torch.no_grad()
def test_a_kernel_that_is_switched_off_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = next(spec for spec in ZOO if spec.name == "twins_svt").build()
    module = kernels.KERNELS["MLP"][0]
    calls: list[int] = []
    run = module.onednn_linear
    monkeypatch.setattr(module, "onednn_linear", lambda *arguments: (calls.append(1), run(*arguments))[1])
    adapter(image(32, 32))
    assert calls
    calls.clear()
    with kernels.switched_off("MLP"):
        adapter(image(32, 32))
    assert not calls
