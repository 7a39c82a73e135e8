"""tools/check_gpu.py, as far as it goes without a GPU: the CPU stands on both sides, and what is wrong is found."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lab.gpu.command import main, render
from lab.gpu.numbers import check_contract, compare
from lab.gpu.openmmlab import Both
from lab.gpu.rows import Row, beyond
from lab.randomise import randomise
from zoo import ZOO, image

CPU = torch.device("cpu")


def test_the_tool_prints_a_table_and_writes_none_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--device", "cpu", "--quick", "--only", "numbers", "operators", "--page", str(tmp_path / "gpu.md")]
    assert main(arguments) == 0
    page = capsys.readouterr().out
    assert "7 of 7 cases are right" in page
    assert "| numbers | twins_svt | fp32 0.0e+00, bf16 " in page
    assert "| operators | nms/0,ties=False,offset=0 | 0.0e+00 |" in page
    assert not list(tmp_path.iterdir())


def test_a_machine_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no CUDA GPU here; --device cpu runs the same checks"):
        main([])


def test_wrong_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = ZOO[0].build()
    other = randomise(ZOO[0].build(), seed=9)
    monkeypatch.setattr("lab.gpu.numbers.copy", SimpleNamespace(deepcopy=lambda _: other))
    assert re.match(r"fp32 .* > 1e-04, .*gradients .* > 1e-03", compare(adapter, CPU)[1])
    errors = {"a": 1e-5, "b": 0.1, "c": float("nan")}
    assert beyond(errors, dict.fromkeys("abc", 1e-4)) == "b 1.0e-01 > 1e-04, c nan > 1e-04"


def test_maps_that_break_the_contract_are_found() -> None:
    adapter, x = ZOO[0].build(), image(64, 96)
    first, *others = adapter(x)
    for wrong, message in (
        (first[:, 1:], "promised"),
        (first.half(), "float16"),
        (first.mT.contiguous().mT, "not contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            check_contract((wrong, *others), adapter, x)


def test_an_operator_that_differs_elsewhere_is_found() -> None:
    """Also where the result is one of its arguments."""
    calls = []

    def double(values: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        calls.append(values)
        output.copy_(values * (2 if len(calls) % 2 else 2.1))
        return values.sum()

    both = Both(SimpleNamespace(double=double), CPU)
    output = torch.zeros(3)
    found, problem = both.compare(lambda: both.operators.double(torch.ones(3), output))
    assert (found, problem) == ("4.8e-02", "differs from the CPU")
    assert output.tolist() == pytest.approx([2.1] * 3)  # what the CPU computes, the second call


def test_the_page_names_what_is_wrong_and_what_was_left() -> None:
    rows = [Row("numbers", "one", "fp32 1e-7"), Row("speed", "two", "", "ValueError: no")]
    page = render(rows, ["operators"], CPU, 12.3)
    assert "1 of 2 cases are right, in 12 s." in page
    assert "The time ended in: operators." in page
    assert "| speed | two |  | ValueError: no |" in page
