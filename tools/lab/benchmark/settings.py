"""How a run measures, whatever it measures."""

import re
from dataclasses import dataclass

import torch

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """What all cases of a run share.

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
