"""The settings of a benchmark, and the figures that it gives for a case."""

import re
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from lab.benchmark.cases import Case
from lab.results import Results, as_json

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """The settings that all cases of a run share.

    Attributes:
        threads: of each process on the CPU.
        dtype: ``'fp32'``, or ``'bf16'`` for autocast.
        device: ``'cpu'``, ``'cuda'`` or ``'cuda:1'``.
        repeats: timed runs of each side.
        budget: seconds after which a side is not timed once more.
        time_limit: seconds that one run may take before its process is ended.

    Raises:
        ValueError: a number below one, a dtype or device that there is not.
    """

    threads: int = 2
    dtype: str = "fp32"
    device: str = "cpu"
    repeats: int = 7
    budget: float = 60.0
    time_limit: float = 900.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} must be one of {', '.join(DTYPES)}.")
        for name in ("threads", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        gpus = torch.cuda.device_count()
        match = re.fullmatch(r"cpu|cuda(?::(\d+))?", self.device)
        if match is None or (self.device != "cpu" and int(match[1] or 0) >= gpus):
            raise ValueError(
                f"device={self.device!r}: torch sees {gpus} GPUs here; use cpu, cuda or cuda:N with N < {gpus}."
            )


@dataclass
class Measured:
    """The figures of one side; an error says why some are missing.

    Attributes:
        seconds: of each timed run, in order.
        peak_bytes: of one run, beyond imports, weights and image.
        flops: two for each multiply-add, as this side computes.
        error: why the side could not be measured, or not further.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    flops: int | None = None
    error: str | None = None

    @property
    def median(self) -> float | None:
        """Seconds of the median run."""
        return statistics.median(self.seconds) if self.seconds else None


@dataclass
class Result:
    """The figures of a case.

    Attributes:
        case: its fields.
        ours: the adapter's.
        peer: those of the side that it was compared with.
        rates: floating point operations per second of a large matrix product, measured between the runs.
        map_errors: relative, one per level; None where nothing was compared.
        gradient_error: relative; None for a forward.
        within_tolerance: whether the numbers agree; None where nothing was compared.
        comparison: what the numbers were compared with, or why not.
    """

    case: dict[str, Any]
    ours: Measured = field(default_factory=Measured)
    peer: Measured = field(default_factory=Measured)
    rates: list[float] = field(default_factory=list)
    map_errors: list[float] | None = None
    gradient_error: float | None = None
    within_tolerance: bool | None = None
    comparison: str = "nothing"

    @property
    def speed(self) -> float | None:
        """The peer's median time over ours."""
        ours, peer = self.ours.median, self.peer.median
        return peer / ours if ours and peer else None

    @property
    def speed_of_fastest(self) -> float | None:
        """The peer's fastest run over ours: the runs that other work on the machine has disturbed least."""
        ours, peer = self.ours.seconds, self.peer.seconds
        return min(peer) / min(ours) if ours and peer else None

    @property
    def memory(self) -> float | None:
        """Our peak over the peer's."""
        ours, peer = self.ours.peak_bytes, self.peer.peak_bytes
        return ours / peer if ours and peer else None

    def share(self, side: Measured) -> float | None:
        """Return the share of the machine's matrix-multiply rate that a side reaches."""
        if not (side.median and side.flops and self.rates):
            return None
        return side.flops / side.median / statistics.median(self.rates)

    def to_json(self) -> dict[str, Any]:
        """Return all figures, derived ones too, as ``results.json`` holds them."""
        value = {
            **asdict(self),
            "speed": self.speed,
            "speed_of_fastest": self.speed_of_fastest,
            "memory": self.memory,
        }
        for name, side in (("ours", self.ours), ("peer", self.peer)):
            value[name].update(median=side.median, share=self.share(side))
        return value


def finished(results: Results, case: Case) -> dict[str, Any] | None:
    """Return the stored result of this very case, if our side did not fail in it."""
    result = results.by_name.get(case.name)
    if result is None or result["ours"]["error"] is not None or result["case"] != as_json(asdict(case)):
        return None
    return result
