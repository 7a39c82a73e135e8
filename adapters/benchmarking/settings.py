"""How a run measures, whatever it measures."""

from dataclasses import dataclass

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """What all cases of a run share.

    Attributes:
        threads: of each process on the CPU.
        dtype: ``'fp32'``, or ``'bf16'`` for autocast.
        device: such as ``'cpu'`` or ``'cuda'``.
        repeats: timed runs of each side.
        budget: seconds after which a side is not timed once more.
        time_limit: seconds that one run may take before its process is ended.
    """

    threads: int = 2
    dtype: str = "fp32"
    device: str = "cpu"
    repeats: int = 7
    budget: float = 60.0
    time_limit: float = 900.0
