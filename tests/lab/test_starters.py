"""The starters of the maintainers' tools: each is a few lines, explains itself, and tells a mistake in one line."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
STARTERS = sorted(path for path in TOOLS.glob("*.py") if "from lab." in path.read_text())


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)
def test_a_starter_is_short_and_shows_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(path.read_text().splitlines()) <= 20
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code
    assert f"usage: {path.name}" in capsys.readouterr().out


def test_all_tools_have_starters() -> None:
    assert {path.stem for path in STARTERS} == {
        "benchmark",
        "benchmark_extraction",
        "benchmark_models",
        "check_frameworks",
        "check_gpu",
        "check_priors",
        "demo",
        "draw_features",
        "learn_batch_padding",
        "learn_small_objects",
        "learning_check",
        "list_recipes",
        "make_shapes",
        "measure_batch_mates",
        "measure_coverage",
        "measure_deformable",
        "measure_exports",
        "measure_heads",
        "measure_kernels",
        "measure_quantisation",
        "measure_low_rank",
        "probe_weights",
        "published_counts",
        "run_matrix",
        "sweep",
        "time_batch_steps",
        "time_exports",
    }


def test_a_mistake_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["make_shapes.py", "--train", "0"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / "make_shapes.py"), run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: train=0 images: at least 1 is needed.\n"


def test_no_file_beside_the_starters_hides_a_library() -> None:
    """Python looks beside a script first, and numba imports a library that is called coverage."""
    assert not {path.stem for path in TOOLS.iterdir()} & {"coverage", "benchmark_utils", "shapes", "torch", "timm"}
