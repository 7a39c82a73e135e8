"""One case from start to end: its sides take turns at the clock, and show their memory in fresh processes."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from lab.benchmark.results import Settings
from lab.benchmark.worker import SideError, Worker, preload
from lab.whole_models.cases import ModelCase
from lab.whole_models.model import build_quietly

preload(build_quietly.__module__)


@dataclass
class SideResult:
    """The figures of one backbone in a case.

    Attributes:
        seconds: of each timed step.
        backbone_seconds: of the backbone alone, after each.
        peak_bytes: of one step.
        parameters: of the backbone.
        error: why there are no figures, or no further ones.
    """

    seconds: list[float] = field(default_factory=list)
    backbone_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    parameters: int | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the medians too."""
        medians = {
            name: statistics.median(values) if values else None
            for name, values in (("median", self.seconds), ("backbone_median", self.backbone_seconds))
        }
        return {**vars(self), **medians}


def run_case(case: ModelCase, settings: Settings, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure a case; a side that fails is reported as such, and the others are measured.

    Args:
        case: what to measure.
        settings: how; the budget is one side's.
        progress: called with a few words on each step.

    Returns:
        :meth:`SideResult.to_json` of each side by its name.
    """
    results = {side: SideResult() for side in case.sides}
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(side, case, settings, build_quietly)) for side in case.sides}

        def ask(side: str, what: str, worker: Worker | None = None) -> Any:
            """Return an answer; None once the side has failed."""
            if results[side].error is not None:
                return None
            progress(f"{what}, {side}")
            try:
                return (worker or workers[side]).ask(what)
            except SideError as error:
                results[side].error = str(error)
                return None

        for side, result in results.items():
            result.parameters = ask(side, "warm_up")
        for _ in range(settings.repeats):
            for name in ("seconds", "backbone_seconds"):
                for side, result in results.items():
                    seconds = ask(side, name)
                    if seconds is not None:
                        getattr(result, name).append(seconds)
            if max(sum(result.seconds) for result in results.values()) > settings.budget:
                break
        for side, result in results.items():
            workers[side].stop()
            with Worker(side, case, settings, build_quietly) as worker:
                result.peak_bytes = ask(side, "peak_bytes", worker)
    return {side: result.to_json() for side, result in results.items()}
