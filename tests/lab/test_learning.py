"""tools/learning_check.py: two steps of two cases on a tiny dataset, what is kept, and what is judged."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from lab.learning.cases import CASES, MARGIN, Case, find_cases
from lab.learning.check import Budget, count_backbone, judge, result_name, rows
from lab.learning.command import main
from lab.results import Results

from adapters.factory import FAMILIES, family_of


def test_one_case_is_trained_and_a_finished_one_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    finished = {"mIoU": 0.9, "loss": 123.0, "parameters": 6600192, "seconds": 1}
    budget = Budget(iterations=2, images=(8, 2))
    Results(results, {"budget": asdict(budget)}).add("mmseg SVT seed 0", finished)

    small = ["--iterations", "2", "--images", "8", "2", "--seeds", "0", "--out", str(tmp_path)]
    assert main([*small, "--cases", "twins", "mmseg SVT"]) == 1  # two steps teach nothing
    held = json.loads(results.read_text())["results"]
    assert held["mmseg SVT seed 0"] == finished
    assert set(held["twins seed 0"]) == set(finished)
    # One and the same network: ours, as timm builds it, and mmseg's own.
    assert (
        held["twins seed 0"]["parameters"]
        == finished["parameters"]
        == count_backbone(find_cases(["mmseg SVT"])[0].backbone)
    )
    page = (tmp_path / "results.md").read_text()
    assert "| twins | 6.6 | " in page
    assert "| mmseg SVT 0.900 |" in page
    assert "below its floor of 0.55" in capsys.readouterr().out


def test_what_stands_side_by_side_has_equal_size() -> None:
    sizes = {case.name: count_backbone(case.backbone) for case in CASES}
    for case in CASES:
        if case.native:
            assert sizes[case.name] == pytest.approx(sizes[case.native], rel=0.05), case.name


def test_every_family_is_among_the_cases() -> None:
    models = [case.backbone["model_name"] for case in CASES if case.backbone["type"] == "TimmAdapter"]
    assert set(FAMILIES) <= {family_of(model) for model in models}


def test_a_native_class_stands_among_the_cases_and_is_not_ours() -> None:
    backbones = {case.name: case.backbone["type"] for case in CASES}
    assert len(backbones) == len(CASES)
    natives = [case.native for case in CASES if case.native]
    assert natives
    assert all(backbones[native] in ("mmseg.SVT", "mmdet.SwinTransformer") for native in natives)


OURS = Case("ours", {}, (), floor=0.4, native="theirs")
THEIRS = Case("theirs", {}, (), floor=0.4)


def results_of(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    return {
        result_name(case, seed): {"mIoU": score, "parameters": 1, "seconds": 1}
        for case, scores in ((OURS, ours), (THEIRS, theirs))
        for seed, score in enumerate(scores)
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([0.5], [0.5], ""),
        ([0.5], [], ""),
        ([0.39], [0.5], "below its floor of 0.40"),
        ([0.5], [0.5 + MARGIN + 0.01], f"more than {MARGIN:.2f} below theirs"),
        ([0.5, 0.51, 0.56], [0.55, 0.6, 0.7], ""),
        ([0.5, 0.51, 0.54], [0.55, 0.6, 0.7], "each seed is below each of theirs"),
        ([0.5, 0.51, 0.54], [0.55, 0.55], ""),
    ],
)
def test_judging(ours: list[float], theirs: list[float], verdict: str) -> None:
    assert judge(OURS, results_of(ours, theirs)) == verdict


def test_the_table_has_mean_and_spread() -> None:
    (row,) = rows([OURS], results_of([0.5, 0.6, 0.7], [0.6]))
    assert row["mIoU"] == "0.600 ± 0.100"
    assert row["each seed"] == "0.500 0.600 0.700"
    assert row["beside"] == "theirs 0.600"
    assert row["verdict"] == "ok"
    assert rows([OURS], {}) == []


def test_a_case_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"there is no case 'twin'; the cases are 'twins', 'mmseg SVT'"):
        find_cases(["twin"])
