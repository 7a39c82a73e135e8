"""Relative errors between maps and gradients that are computed in two ways."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Greatest relative error of a level, by dtype; gradients, which sum over all tokens, may be off ten times as much.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
GRADIENT_FACTOR = 10.0


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return ``|actual - expected| / |expected|`` in the 2-norm over all entries of two tensors ``(...)``.

    Different shapes give infinity; zeros, which could hide a dead output on both sides, give NaN, which no tolerance
    lets pass.
    """
    if actual.shape != expected.shape:
        return math.inf
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


def map_errors(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """Return one relative error per level of two sets of maps ``(B, C, H, W)``; infinity where one lacks a level."""
    if len(actual) != len(expected):
        return [math.inf]
    return [relative_error(a, e) for a, e in zip(actual, expected, strict=True)]


def gradient_error(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float | None:
    """Return the relative error of all gradients ``(...)`` taken together; None where there are none.

    Those of resampled position embeddings, which have another shape on the two sides, are left out, and so are those
    that only the reference has (timm keeps its classifier).
    """
    names = [name for name in actual if name in expected and actual[name].shape == expected[name].shape]
    if not names:
        return None
    return relative_error(
        torch.cat([actual[name].flatten() for name in names]), torch.cat([expected[name].flatten() for name in names])
    )


def is_within_tolerance(maps: Sequence[float], gradients: float | None, dtype: str) -> bool:
    """Return whether a comparison passed; not a number is a failure."""
    tolerance = TOLERANCE[dtype]
    return all(error <= tolerance for error in maps) and (gradients is None or gradients <= tolerance * GRADIENT_FACTOR)
