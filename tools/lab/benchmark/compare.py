"""How far two sides' numbers are apart, in one run."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Greatest relative error of a level, by dtype; gradients, which sum over all tokens, may be off ten times as much.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
GRADIENT_FACTOR = 10.0


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``|actual - expected| / |expected|`` over all entries, in the 2-norm; infinite where the shapes differ."""
    if actual.shape != expected.shape:
        return math.inf
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


def map_errors(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """One relative error per level; infinite where a side lacks one."""
    if len(actual) != len(expected):
        return [math.inf]
    return [relative_error(a, e) for a, e in zip(actual, expected, strict=True)]


def gradient_error(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float | None:
    """The relative error of all gradients taken together; None where there are none.

    Those of resampled position embeddings, which have another shape on the two sides, are left out, as is what only the
    reference has (timm keeps its classifier).
    """
    names = [name for name in actual if name in expected and actual[name].shape == expected[name].shape]
    if not names:
        return None
    return relative_error(
        torch.cat([actual[name].flatten() for name in names]), torch.cat([expected[name].flatten() for name in names])
    )


def within_tolerance(maps: Sequence[float], gradients: float | None, dtype: str) -> bool:
    """Whether a comparison passed; not a number is a failure."""
    tolerance = TOLERANCE[dtype]
    return all(error <= tolerance for error in maps) and (gradients is None or gradients <= tolerance * GRADIENT_FACTOR)
