"""The tables of a run: a line for each case, and what could not be measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.describe.tables import to_markdown
from lab.benchmark.report import duration, megabytes
from lab.whole_models.cases import OURS, TIMM_BACKBONE, ModelCase

Measured = Sequence[tuple[ModelCase, Mapping[str, Mapping[str, Any]]]]

TITLES = {"retinanet": "RetinaNet", "mask_rcnn": "Mask R-CNN", "upernet": "UPerNet"}
FAILED = "no"


def rows(measured: Measured) -> list[dict[str, Any]]:
    """Make a line of the table for each case: time and peak of each side, in parentheses how many times ours."""
    return [_row(case, result) for case, result in measured]


def _row(case: ModelCase, result: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    height, width = case.size
    ours = result[OURS]
    native = next((side for side in result if side not in (OURS, TIMM_BACKBONE)), None)
    row: dict[str, Any] = {
        "model": TITLES[case.model],
        "size": f"{height}x{width}",
        "step": case.mode,
        "backbone": case.architecture,
        "ours": duration(ours["median"]),
        "TIMMBackbone": _beside(duration, result[TIMM_BACKBONE], ours, "median"),
        "native": _beside(duration, result[native], ours, "median") if native else "",
        "peak, ours": megabytes(ours["peak_bytes"]),
        "peak, TIMMBackbone": _beside(megabytes, result[TIMM_BACKBONE], ours, "peak_bytes"),
        "peak, native": _beside(megabytes, result[native], ours, "peak_bytes") if native else "",
        "backbone's share, ours": _share(ours),
        "of native": _share(result[native]) if native else "",
    }
    return row


def _beside(write: Any, side: Mapping[str, Any], ours: Mapping[str, Any], figure: str) -> str:
    if side[figure] is None:
        return FAILED
    times = f" ({side[figure] / ours[figure]:.2f}x)" if ours[figure] else ""
    return write(side[figure]) + times


def _share(side: Mapping[str, Any]) -> str:
    if not (side["median"] and side["backbone_median"]):
        return FAILED
    return f"{side['backbone_median'] / side['median']:.0%}"


def failures(measured: Measured) -> dict[str, list[str]]:
    """Return the reasons why sides failed, and the cases in which they did."""
    found: dict[str, list[str]] = {}
    for case, result in measured:
        for side, figures in result.items():
            if figures["error"]:
                found.setdefault(f"{side} of {case.architecture}: {figures['error']}", []).append(case.name)
    return found


def to_page(measured: Measured) -> str:
    """Write the table as Markdown, with the failures below it."""
    lines = [to_markdown(rows(measured)), ""]
    for reason, names in failures(measured).items():
        lines.append(f"- {reason} ({len(names)} cases, such as {names[0]})")
    return "\n".join(lines) + "\n"
