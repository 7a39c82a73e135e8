"""tools/benchmark_models.py: a small model steps; its tables are made from made-up figures."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lab.benchmark.results import Settings
from lab.benchmark.worker import SideError
from lab.whole_models import command, run
from lab.whole_models.cases import OURS, TIMM_BACKBONE, ModelCase, all_cases, backbones, find_cases
from lab.whole_models.model import WholeModel
from lab.whole_models.report import failures, rows, to_page

CASE = ModelCase("retinanet", (64, 96), "train", "convit")
SIDE = {"median": 2.0, "backbone_median": 0.5, "peak_bytes": 100 << 20, "parameters": 1, "error": None}
NONE = {"median": None, "backbone_median": None, "peak_bytes": None, "parameters": None, "error": "ValueError: no"}


def test_a_side_steps_and_one_that_cannot_says_why() -> None:
    level = logging.getLogger().level
    model = WholeModel(OURS, CASE, Settings(threads=torch.get_num_threads()))
    assert logging.getLogger().level == level  # silence is for a process of its own
    assert 5e6 < model.warm_up() < 9e6
    assert model.backbone_seconds() > 0
    assert model.seconds() > 0
    with pytest.raises(RuntimeError, match="The expanded size of the tensor"):
        WholeModel(TIMM_BACKBONE, CASE, Settings(threads=torch.get_num_threads())).warm_up()


class FakeWorker:
    """Stands for a process: our side takes 2 s, the others 3 s; mmseg's TIMMBackbone fails."""

    log: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, side: str, *_: object) -> None:
        self.side = side

    def ask(self, what: str) -> float:
        self.log.append((self.side, what))
        if self.side == TIMM_BACKBONE:
            raise SideError("no such size")
        return 2.0 if self.side == OURS else 3.0

    def stop(self) -> None:
        self.log.append((self.side, "stop"))

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_sides_take_turns_and_one_that_fails_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Worker", FakeWorker)
    case = replace(CASE, architecture="twins_svt")
    result = run.run_case(case, Settings(repeats=2), lambda _: None)
    native = case.sides[2]
    assert [side for side, what in FakeWorker.log if what == "seconds"] == [OURS, native] * 2
    assert [what for side, what in FakeWorker.log if side == TIMM_BACKBONE] == ["warm_up", "stop"]
    assert (result[OURS]["median"], result[native]["median"]) == (2.0, 3.0)
    assert (result[OURS]["peak_bytes"], result[TIMM_BACKBONE]["error"]) == (2.0, "no such size")
    FakeWorker.log.clear()
    run.run_case(case, Settings(repeats=9, budget=5), lambda _: None)
    assert FakeWorker.log.count((OURS, "seconds")) == 2


def test_the_table() -> None:
    case = replace(CASE, architecture="twins_svt")
    native = {**SIDE, "median": 3.0, "backbone_median": 1.5, "peak_bytes": 250 << 20}
    measured = [(case, {OURS: SIDE, TIMM_BACKBONE: NONE, "mmseg's SVT": native})]
    (row,) = rows(measured)
    assert (row["ours"], row["TIMMBackbone"], row["native"]) == ("2000 ms", "no", "3000 ms (1.50x)")
    assert (row["peak, ours"], row["peak, native"]) == ("100 MiB", "250 MiB (2.50x)")
    assert (row["backbone's share, ours"], row["of native"]) == ("25%", "50%")
    assert failures(measured) == {f"{TIMM_BACKBONE} of twins_svt: ValueError: no": [case.name]}
    assert "- mmseg's TIMMBackbone of twins_svt: ValueError: no (1 cases" in to_page(measured)


def test_every_case_has_ours_first_and_timms() -> None:
    for case in all_cases():
        assert case.sides[:2] == (OURS, TIMM_BACKBONE)
        assert case.backbone(OURS)["type"] == "TimmAdapter"
    assert backbones("swinv2_cr", (512, 512))[TIMM_BACKBONE]["img_size"] == (512, 512)


def test_cases_are_found_by_words() -> None:
    assert len(find_cases([])) == len(list(all_cases()))
    assert {case.model for case in find_cases(["retinanet 512x512 train", "upernet convit"])} == {
        "retinanet",
        "upernet",
    }
    with pytest.raises(ValueError, match=r"--cases 'yolo': no name of a case holds it. A name is MODEL-SIZE"):
        find_cases(["yolo"])


def test_the_tool_keeps_what_is_measured_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def pretend(case: ModelCase, _: Settings, progress: Callable[[str], None]) -> dict[str, Any]:
        progress("pretending")
        measured.append(case.name)
        failed = case.architecture == "convit"
        return {side: NONE if failed and side == OURS else SIDE for side in case.sides}

    monkeypatch.setattr(command, "run_case", pretend)
    out = ["--out", str(tmp_path)]
    assert command.main(["--cases", "upernet 512x512 train twins", "--stop-after", "0", *out]) == 0
    assert measured == []
    for _ in range(2):
        assert command.main(["--cases", "upernet 512x512 train twins", *out]) == 0
    assert measured == ["upernet-512x512-train-twins_svt", "upernet-512x512-train-twins_pcpvt"]
    assert command.main(["--cases", "upernet 512x512 train convit", *out]) == 1
    assert (tmp_path / "results.md").read_text().count("| UPerNet |") == 3
