"""The benchmark's figures are checked where the truth is known; its tables, files and exit codes with made-up ones."""

import json
import resource
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import compare
from lab.benchmark import command, peers, report, run
from lab.benchmark.cases import ADAPTER, CASES, Case, Target, find_cases, parse_size
from lab.benchmark.measure import Bench, limit_memory, peak_resident_bytes
from lab.benchmark.results import Measured, Result, Settings, finished
from lab.benchmark.worker import SideError, Worker, _context, start_server
from lab.results import Results
from references import masked_swinv2_cr, timm_maps
from torch import Tensor
from zoo import CONVIT, SWIN_CR, TOKENS, TWINS, image

import adapters

#: The time is that of a hang: other work on a host has once held up a process for a minute.
SETTINGS = Settings(threads=1, repeats=2, time_limit=240)
SVT = Case("svt", "twins_svt_small", (64, 96), options={"trunk": TWINS})
CONVIT_CASE = Case("convit", "convit_tiny", (96, 96), options={"trunk": CONVIT})
TINY = (
    SVT,
    replace(SVT, peer="mmseg", options={"trunk": TWINS, "window_padding": "mmseg"}),
    replace(
        SVT, peer="mmseg", size=(128, 128), options={"trunk": TWINS, "stage_norm": True, "window_padding": "mmseg"}
    ),
    Case("pcpvt", "twins_pcpvt_small", (64, 96), options={"trunk": TWINS}),
    Case("pcpvt", "twins_pcpvt_small", (64, 96), "mmseg", options={"trunk": TWINS}),
    Case("swin", "swinv2_cr_tiny_ns_224", (224, 448), options={"trunk": SWIN_CR}),
    Case("swin", "swinv2_cr_tiny_ns_224", (100, 160), "masked", options={"trunk": SWIN_CR}),
    Case("swin", "swinv2_cr_tiny_ns_224", (224, 224), "timm img_size", options={"trunk": SWIN_CR}),
    Case("vit", "vit_betwixt_patch16_rope_reg4_gap_256", (64, 96), options={"trunk": TOKENS}),
    CONVIT_CASE,
    replace(CONVIT_CASE, peer="dense", size=(64, 112)),
    Case("resnet", "resnet18", (64, 96), options={"trunk": {"layers": [1, 1, 1, 1]}}),
)


@pytest.mark.parametrize("case", TINY, ids=lambda case: f"{case.name}-{case.peer}")
def test_each_peer_computes_the_same_from_the_same_weights(case: Case, tmp_path: Path) -> None:
    outputs = []
    for kind in (ADAPTER, case.peer):
        bench = Bench(kind, replace(case, mode="train"), SETTINGS)
        holds_adapter = any(isinstance(module, adapters.BackboneAdapter) for module in bench.side.module.modules())
        assert holds_adapter == (kind == ADAPTER)
        bench.save_outputs(str(tmp_path / kind))
        outputs.append(torch.load(tmp_path / kind))
    ours, peer = outputs
    assert max(compare.map_errors(ours["maps"], peer["maps"])) < 1e-4
    assert set(ours["gradients"]) == set(peer["gradients"])
    error = compare.gradient_error(ours["gradients"], peer["gradients"])
    assert error is not None
    assert error < 1e-3


def test_every_peer_is_tested() -> None:
    assert {ADAPTER, *(case.peer for case in TINY)} == set(peers.PEERS)


def test_built_in_cases_can_be_built() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.peer in peers.PEERS
        assert case.reference in (None, "same as peer", *peers.PEERS)


@torch.no_grad()
def test_masked_swinv2_cr_equals_the_tests_own_reference() -> None:
    """Two independent implementations of the design: windows with a mask, and every token against every other."""
    case = Case("swin", "swinv2_cr_tiny_ns_224", (100, 160), "masked", options={"trunk": SWIN_CR})
    x = image(100, 160)
    side, unmasked = peers.build("masked", case), peers.build("timm", case).module.eval()
    side.module.eval()
    errors = compare.map_errors(list(side.maps(x)), masked_swinv2_cr(unmasked, x, window=7))
    assert max(errors) < 1e-4
    assert max(compare.map_errors(timm_maps(unmasked, x, range(4), False), list(side.maps(x)))) > 1e-2


def test_timm_has_no_convit_for_a_grid_that_is_not_square() -> None:
    with pytest.raises(ValueError, match=r"square one, so \(64, 96\) has no peer in timm"):
        peers.build("timm", replace(CONVIT_CASE, size=(64, 96)))


def test_memory_is_the_rise_above_what_is_held_however_much_was_held_before() -> None:
    torch.ones(64 << 20)  # 256 MiB come and go, and leave ru_maxrss raised for good
    assert peak_resident_bytes(lambda: torch.ones(16 << 20)) / 2**20 == pytest.approx(64, abs=8)
    held = torch.ones(16 << 20)
    assert peak_resident_bytes(lambda: held[:10].sum()) < 8 << 20


def test_memory_that_the_machine_lacks_is_refused_before_it_is_used() -> None:
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory()
    try:
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(int(available * 0.97), dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_memory_of_a_side_leaves_out_its_weights() -> None:
    wide = Case("wide", "vit_small_patch16_224", (32, 32), options={"trunk": {"depth": 4, "embed_dim": 768}})
    bench = Bench(ADAPTER, wide, SETTINGS)
    weights = sum(parameter.nbytes for parameter in bench.side.module.parameters())
    assert bench.peak_bytes() < weights / 4


def test_a_worker_says_in_one_line_why_it_failed() -> None:
    for kind, case, reason in (
        ("timm", replace(CONVIT_CASE, size=(64, 96)), "ValueError: timm's ConViT takes"),
        (ADAPTER, replace(SVT, size=(400_000, 400_000)), "out of memory: "),
    ):
        with Worker(kind, case, SETTINGS) as worker, pytest.raises(SideError, match=f"^{reason}"):
            worker.ask("seconds")


def test_a_worker_that_dies_or_hangs_is_reported() -> None:
    worker = Worker(ADAPTER, SVT, SETTINGS)
    worker._process.kill()
    with pytest.raises(SideError, match="the process died, exit code -9"):
        worker.ask("seconds")
    with Worker(ADAPTER, SVT, replace(SETTINGS, time_limit=0.01)) as worker:
        with pytest.raises(SideError, match="no answer in 0 s"):
            worker.ask("seconds")
        assert not worker._process.is_alive()


def test_processes_are_forked_from_one_that_has_imported_everything(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    code = f"import sys, pathlib; pathlib.Path({str(path)!r}).write_text(str('lab.benchmark.worker' in sys.modules))"
    forkserver._forkserver._stop()  # another test's, which may have been started for another library
    start_server()
    process = _context.Process(target=exec, args=(code,))
    process.start()
    process.join()
    assert path.read_text() == "True"


class FakeWorker:
    """Answers at once with made-up figures, and writes down in which order it was asked."""

    log: list[tuple[str, str]] = []
    seconds = {ADAPTER: 1.0, "timm": 3.0}
    fails: dict[tuple[str, str], str] = {}
    maps: dict[str, Callable[[], list[Tensor]]] = {}

    def __init__(self, kind: str, *_: object) -> None:
        self.kind = kind
        self.log.append((kind, "start"))

    def ask(self, what: str, *arguments: Any) -> Any:
        self.log.append((self.kind, what))
        if error := self.fails.get((self.kind, what)):
            raise SideError(error)
        if what == "save_outputs":
            torch.save({"maps": self.maps.get(self.kind, lambda: [torch.ones(3)])(), "gradients": {}}, arguments[0])
            return 0.5, 600
        return {"seconds": self.seconds[self.kind], "matrix_rate": 1000.0, "peak_bytes": 2**20}[what]

    def stop(self) -> None:
        self.log.append((self.kind, "stop"))

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    fresh = type("Fake", (FakeWorker,), {"log": [], "fails": {}, "maps": {}})
    monkeypatch.setattr(run, "Worker", fresh)
    return fresh


def measure(case: Case = SVT, settings: Settings = SETTINGS) -> Result:
    return run.run_case(case, settings, lambda _: None)


def test_sides_take_turns_and_memory_has_fresh_processes(fake: type[FakeWorker]) -> None:
    result = measure(settings=replace(SETTINGS, repeats=3))
    asked = [kind for kind, what in fake.log if what == "seconds"]
    assert asked == [ADAPTER, "timm"] * 3
    for kind in (ADAPTER, "timm"):
        events = [what for who, what in fake.log if who == kind]
        memory = events.index("peak_bytes")
        assert events[memory - 2 : memory + 2] == ["stop", "start", "peak_bytes", "stop"]
    assert result.speed == 3
    assert result.memory == 1
    assert result.share(result.ours) == pytest.approx(0.6)
    assert result.share(result.peer) == pytest.approx(0.2)
    assert result.map_errors == [0]


@pytest.mark.usefixtures("fake")
def test_a_side_that_has_used_its_budget_is_not_timed_again() -> None:
    result = measure(settings=replace(SETTINGS, repeats=10, budget=6))
    assert len(result.ours.seconds) == len(result.peer.seconds) == 2


def test_a_failing_peer_is_reported_and_ours_is_still_measured(fake: type[FakeWorker]) -> None:
    fake.fails["timm", "seconds"] = "out of memory: 5 TiB"
    result = measure()
    assert result.peer.error == "out of memory: 5 TiB"
    assert len(result.ours.seconds) == SETTINGS.repeats
    assert result.ours.peak_bytes
    assert result.speed is None
    assert result.within_tolerance
    assert "peer failed: out of memory: 5 TiB" in report.to_markdown([result.to_json()])


def test_numbers_that_differ_are_found(fake: type[FakeWorker]) -> None:
    fake.maps["timm"] = lambda: [torch.tensor([1.0, 1.0, 1.001])]
    result = measure()
    assert result.within_tolerance is False
    assert result.map_errors == [pytest.approx(5.77e-4, rel=1e-2)]


def test_numbers_are_compared_with_the_reference_of_the_case_and_in_fp32(fake: type[FakeWorker]) -> None:
    fake.maps["timm"] = lambda: [torch.zeros(3)]
    assert measure(replace(SVT, reference="masked")).within_tolerance
    assert ("masked", "save_outputs") in fake.log
    fake.log.clear()
    result = measure(settings=replace(SETTINGS, dtype="bf16"))
    assert fake.log.count(("timm", "save_outputs")) == 2
    assert result.comparison == "timm, fp32"
    fake.fails["masked", "save_outputs"] = "no"
    assert measure(replace(SVT, reference="masked")).comparison == "masked failed: no"


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (SVT, "fp32"),
        (replace(CONVIT_CASE, mode="train", batch=2), "fp32"),
        (replace(SVT, mode="train"), "bf16"),
        (replace(SVT, mode="train", peer=ADAPTER, options={"trunk": TWINS, "with_cp": True}), "fp32"),
    ],
    ids=["forward", "train", "train-bf16", "with_cp"],
)
def test_real_processes_measure_everything(case: Case, dtype: str) -> None:
    case = replace(case, peer_options={"trunk": TWINS})
    result = measure(case, replace(SETTINGS, dtype=dtype))
    assert result.ours.error is None
    assert result.peer.error is None
    assert result.within_tolerance, (result.map_errors, result.gradient_error)
    assert (result.gradient_error is None) == (case.mode == "forward")
    for side in (result.ours, result.peer):
        assert len(side.seconds) == 2
        assert min(side.seconds) > 0
        assert side.peak_bytes is not None
        assert side.flops
        assert 0 < (result.share(side) or 0) < 1


def test_memory_growth_compares_sizes_and_times_nothing() -> None:
    case = replace(SVT, peer=ADAPTER, size=(1024, 1024), peer_size=(128, 128), peer_options=SVT.options)
    result = measure(replace(case, reference=None, timed=False))
    assert result.ours.seconds == []
    assert result.map_errors is None
    assert result.memory is not None
    assert result.memory > 2


def test_names_of_cases() -> None:
    assert find_cases(["all"]) == list(CASES)
    assert find_cases(["convit-512", "all"])[0].name == "convit-512"
    free = find_cases(["twins_svt_base@640x800"])[0]
    assert (free.model_name, free.size, free.speed) == ("twins_svt_base", (640, 800), Target())
    with pytest.raises(ValueError, match=r"--cases convit: no such case; there are all, convit-1024, .*MODEL@HxW"):
        find_cases(["convit"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "fp16"}, "dtype='fp16' must be one of fp32, bf16"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"repeats": -1}, "repeats=-1 must be at least 1"),
        ({"device": "cuda:99"}, "device='cuda:99': torch sees [0-9]+ GPUs here; use cpu"),
        ({"device": "tpu"}, "device='tpu': torch sees"),
    ],
    ids=str,
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


def test_sizes() -> None:
    assert parse_size("512") == (512, 512)
    assert parse_size("800x1344") == (800, 1344)
    for wrong in ("0", "12x", "a", "800*1344", "0x5"):
        with pytest.raises(ValueError, match="is no image size; write one side"):
            parse_size(wrong)


def test_a_case_elsewhere_has_no_targets() -> None:
    case = CASES[0]
    assert case.in_mode("train").speed == case.in_mode("train").memory == Target()
    assert case.in_mode("forward") == case


def result_of(case: Case = SVT, **changes: Any) -> Result:
    ours, peer = Measured([0.5, 0.4, 0.6], 10 << 20, 800), Measured([2.0], 210 << 20, 900)
    return replace(Result(asdict(case), ours, peer, [4000.0], [1e-6, 2e-6], None, True, "timm, fp32"), **changes)


def test_the_table_shows_what_was_measured_beside_the_targets() -> None:
    case = replace(SVT, speed=Target(3.3, 4.5), memory=Target(1 / 15))
    row = report.to_markdown([result_of(case).to_json()]).splitlines()[2]
    times = "svt | timm | 500 ms | 2000 ms | 4.00x | 5.00x | 3.3x (4.5x)"
    assert row == f"| {times} | 10 MiB | 210 MiB | 1/21 | 1/15 | 2.0e-06 | 40% / 11% |"
    missed = replace(SVT, speed=Target(5), memory=Target(1 / 30))
    text = report.to_markdown([result_of(missed, within_tolerance=False).to_json()])
    assert "**4.00x**" in text
    assert "**1/21**" in text
    assert "**2.0e-06**" in text
    unfinished = Result(result_of().case, peer=Measured(error="x [y]")).to_json()
    assert "peer failed: x [y]; numbers: nothing" in report.to_markdown([unfinished])
    assert report.to_table([unfinished], "t").row_count == 1


def test_a_case_that_failed_on_our_side_or_has_changed_is_measured_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", {})
    results.add(SVT.name, result_of(ours=Measured(error="out of memory")).to_json())
    assert finished(results, SVT) is None
    results.add(SVT.name, result_of(peer=Measured(error="out of memory")).to_json())
    assert finished(Results(tmp_path / "results.json", {}), SVT) == results.by_name[SVT.name]
    assert finished(results, replace(SVT, batch=3)) is None


def test_the_tool_writes_resumes_and_exits_by_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def pretend(case: Case, _: Settings, progress: Callable[[str], None]) -> Result:
        progress("pretending")
        measured.append(case.name)
        if case.name == "twins_svt-train":
            raise KeyboardInterrupt
        return result_of(case, within_tolerance=case.name != "convit-512")

    monkeypatch.setattr(command, "run_case", pretend)
    out = ["--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        command.main(["--cases", "convit-1024", "convit-512", "twins_svt-train", *out])
    assert list(json.loads((tmp_path / "results.json").read_text())["results"]) == ["convit-1024", "convit-512"]
    assert command.main(["--cases", "convit-1024", "vit_rope-train", "--resume", *out]) == 0
    assert measured == ["convit-1024", "convit-512", "twins_svt-train", "vit_rope-train"]
    assert command.main(["--cases", "convit-1024", "convit-512", "--resume", *out]) == 1
    assert "convit-512 " in capsys.readouterr().out
    assert (tmp_path / "results.md").read_text().count("\n") == 4
    monkeypatch.setattr(command, "run_case", lambda case, *_: result_of(case, ours=Measured(error="no")))
    assert command.main(["--cases", "convit-1024", *out]) == 1


def test_the_tool_lists_and_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(case.name in listed for case in CASES)
    assert "itself without with_cp" in listed
    with pytest.raises(ValueError, match="no such case"):
        command.main(["--cases", "nonsense"])
