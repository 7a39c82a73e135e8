"""One case from start to end: both sides build, compare numbers, take turns at the clock, and show their memory."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lab import compare
from lab.benchmark.cases import ADAPTER, SAME_AS_PEER, Case
from lab.benchmark.results import Measured, Result, Settings
from lab.benchmark.worker import SideError, Worker


def run_case(case: Case, settings: Settings, progress: Callable[[str], None]) -> Result:
    """Measure a case. A side that fails is reported as such; the other is still measured.

    Args:
        case: what to compare.
        settings: how.
        progress: called with a few words on each step.
    """
    result = Result(case=asdict(case))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        ours = RunningSide("ours", ADAPTER, case, settings, result.ours, stack)
        peer = RunningSide("peer", case.peer, case.for_peer(), settings, result.peer, stack)
        if case.timed or case.reference is not None:
            for side in (ours, peer):
                progress(f"first run, {side.name}")
                side.first_run(folder)
        if case.reference is not None:
            progress("numbers")
            compare_numbers(case, settings, result, folder)
        if case.timed:
            take_turns(ours, peer, settings, result, progress)
        for side in (ours, peer):
            progress(f"memory, {side.name}")
            side.measure_memory()
    return result


class RunningSide:
    """One side of a running case: its process and its figures."""

    def __init__(
        self, name: str, kind: str, case: Case, settings: Settings, measured: Measured, stack: ExitStack
    ) -> None:
        self.name = name
        self.used = 0.0
        self.measured = measured
        self._new_worker: Callable[[], Worker] = lambda: stack.enter_context(Worker(kind, case, settings))
        self._worker = self._new_worker()

    def ask(self, what: str, *arguments: Any) -> Any:
        """Return the answer of this side's process; None once the side has failed."""
        if self.measured.error is not None:
            return None
        try:
            return self._worker.ask(what, *arguments)
        except SideError as error:
            self.measured.error = str(error)
            return None

    def first_run(self, folder: Path) -> None:
        """Write the outputs, count, and warm up."""
        answer = self.ask("save_outputs", str(folder / self.name))
        if answer is not None:
            self.used, self.measured.flops = answer

    def measure_memory(self) -> None:
        """Measure the peak of a single run, in a fresh process."""
        self._worker.stop()
        self._worker = self._new_worker()
        self.measured.peak_bytes = self.ask("peak_bytes")
        self._worker.stop()


def take_turns(
    ours: RunningSide, peer: RunningSide, settings: Settings, result: Result, progress: Callable[[str], None]
) -> None:
    """Time A B A B ..., with the machine's own rate in between, until each has its repeats or one its budget.

    Whatever else the machine does then hits both sides alike.
    """
    for repeat in range(settings.repeats):
        for side in (ours, peer):
            progress(f"timing {repeat + 1}/{settings.repeats}, {side.name}")
            seconds = side.ask("seconds")
            if seconds is not None:
                side.measured.seconds.append(seconds)
                side.used += seconds
        rate = ours.ask("matrix_rate")
        if rate is not None:
            result.rates.append(rate)
        if max(ours.used, peer.used) > settings.budget:
            break


def compare_numbers(case: Case, settings: Settings, result: Result, folder: Path) -> None:
    """Compare our outputs with the reference's in fp32, which the peer has written where it is the reference."""
    kind = case.peer if case.reference == SAME_AS_PEER else case.reference
    assert kind is not None
    path = folder / "peer"
    if case.reference != SAME_AS_PEER or settings.dtype != "fp32":
        path = folder / "reference"
        try:
            with Worker(kind, case.for_peer(), settings) as worker:
                worker.ask("save_outputs", str(path), "fp32")
        except SideError as error:
            result.comparison = f"{kind} failed: {error}"
            return
    if not (path.exists() and (folder / "ours").exists()):
        result.comparison = f"{kind}: no outputs"
        return
    result.comparison = f"{kind}, fp32"
    ours, reference = torch.load(folder / "ours"), torch.load(path)
    result.map_errors = compare.map_errors(ours["maps"], reference["maps"])
    result.gradient_error = compare.gradient_error(ours["gradients"], reference["gradients"])
    result.within_tolerance = compare.is_within_tolerance(result.map_errors, result.gradient_error, settings.dtype)
