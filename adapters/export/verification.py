"""A written file beside the module that it was written from, at sizes that were not traced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapters.describe.tables import markdown_table
from adapters.export.reading import Array, ExportedModel
from adapters.export.refusals import reason_of

#: Greatest difference of a file's outputs from the module's, as a share of the output's greatest value, by precision.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2

#: The shape of an image: batch, height, width.
Case = tuple[int, int, int]
#: Unseen sizes for a file of any size: a multiple of most strides, odd, portrait, less than a cell of stride 32, wide.
CASES: tuple[Case, ...] = ((1, 256, 320), (3, 97, 65), (1, 333, 250), (3, 31, 40), (1, 64, 448), (3, 192, 160))


@dataclass(frozen=True)
class Check:
    """The differences of a file from its module.

    Attributes:
        names: of the outputs.
        rows: the shape of each image, and the difference of each output.
        tolerance: the difference that is allowed.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[Case, tuple[float, ...]], ...]
    tolerance: float

    @property
    def worst(self) -> float:
        """The greatest difference."""
        return max(error for _, errors in self.rows for error in errors)

    def __str__(self) -> str:
        """Return a table in Markdown, a line for each image."""
        heads = ["batch", "image", *self.names]
        lines = [[str(b), f"{h} x {w}", *(f"{error:.1e}" for error in errors)] for (b, h, w), errors in self.rows]
        return markdown_table(heads, lines)


class DifferenceError(ValueError):
    """A file does not compute what its module does."""


def make_image(case: Case, channels: int, seed: int) -> Tensor:
    """Draw an image ``(B, C, H, W)``."""
    batch, height, width = case
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def cases_of(batch: int | None, size: tuple[int, int] | None) -> tuple[Case, ...]:
    """Choose the shapes of six images for a file of a batch and a size; None where these are free."""
    return tuple(
        (images if batch is None else batch, *((height, width) if size is None else size))
        for images, height, width in CASES
    )


def verify(
    file: ExportedModel,
    module: nn.Module,
    cases: Sequence[Case],
    channels: int = 3,
    tolerance: float = TOLERANCE,
    draw: Callable[[Case, int, int], Tensor] = make_image,
) -> Check:
    """Run a file and its module on the same images, and compare all outputs.

    Args:
        file: opened.
        module: in eval mode; takes what the file takes, and returns a tensor or a tuple in the order of the names.
        cases: shapes of the images.
        channels: of the images.
        tolerance: the greatest difference allowed, as a share of an output's greatest value.
        draw: makes an image ``(B, C, H, W)`` from a case, the channels and a seed.

    Raises:
        DifferenceError: the file fails at one of them or differs beyond the tolerance; it says where.
    """
    rows = []
    for seed, case in enumerate(cases):
        image = draw(case, channels, seed)
        with torch.no_grad():
            expected: Any = module(image)
        expected = (expected,) if torch.is_tensor(expected) else tuple(expected)
        where = f"at batch {case[0]}, {case[1]} x {case[2]}"
        try:
            outputs = file(image.numpy())
        except Exception as error:
            raise DifferenceError(f"it fails {where}: {reason_of(error)}") from error
        errors = []
        for (name, actual), wanted in zip(outputs.items(), expected, strict=True):
            errors.append(difference(actual, wanted.float().numpy()))
            if not errors[-1] <= tolerance:
                raise DifferenceError(f"{where}, {name} {_describe(actual, wanted.float().numpy(), tolerance)}")
        rows.append((case, tuple(errors)))
    return Check(file.names, tuple(rows), tolerance)


def difference(actual: Array, expected: Array) -> float:
    """Return the greatest difference of two arrays of the same shape, as a share of the greatest expected value."""
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.size:
        return 0.0
    worst = float(np.abs(actual.astype(np.float64) - expected).max())
    scale = float(np.abs(expected).max())
    return worst / scale if scale else worst


def _describe(actual: Array, expected: Array, tolerance: float) -> str:
    if actual.shape != expected.shape:
        return f"has the shape {actual.shape} where the model gives {expected.shape}"
    off = np.abs(actual.astype(np.float64) - expected) > tolerance * np.abs(expected).max()
    place = tuple(int(index) for index in np.unravel_index(int(off.argmax()), off.shape))
    return (
        f"differs by {difference(actual, expected):.1e} where {tolerance:.0e} is allowed, in {off.mean():.1%} of its "
        f"values, the first at {place}"
    )
