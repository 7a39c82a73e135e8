"""A check's line of the table, and how one is made of code that may fail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: the kind of check.
        case: the model, the recipe or the operator.
        found: what was measured, in words.
        problem: why it is wrong; nothing if it is right.
    """

    check: str
    case: str
    found: str
    problem: str = ""


def attempt(check: str, case: str, measure: Callable[[], tuple[str, str]]) -> Row:
    """Measure a case; an error becomes the row's problem, so that one case ends no other."""
    try:
        found, problem = measure()
    except Exception as error:
        found, problem = "", f"{type(error).__name__}: {_one_line(error)}"
    return Row(check, case, found, problem)


def beyond(errors: dict[str, float], limits: dict[str, float]) -> str:
    """Name the errors that are not below their limits; not a number is beyond any."""
    return ", ".join(
        f"{name} {errors[name]:.1e} > {limits[name]:.0e}" for name in errors if not errors[name] <= limits[name]
    )


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())[:200]
