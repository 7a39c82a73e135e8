"""The report of a run: the table for the screen, the same as Markdown, and the machine that it was taken on."""

import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from rich.markup import escape
from rich.table import Table

from adapters.describe.tables import markdown_table
from lab.benchmark.cases import ADAPTER, SAME_AS_PEER, Case

HEADINGS = (
    "case",
    "against",
    "time, ours",
    "time, theirs",
    "faster",
    "by fastest runs",
    "must (aim)",
    "peak, ours",
    "peak, theirs",
    "ratio",
    "at most (aim)",
    "off by",
    "of matmul rate",
)
LEFT_ALIGNED = 2
NOTHING = "-"
REACHED, MISSED = "green", "red"


def to_table(results: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Make a terminal's table of ``Result.to_json``: red where a target is missed or numbers differ."""
    table = Table(title=title)
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index < LEFT_ALIGNED else "right", no_wrap=index != 1)
    for result in results:
        cells = [f"[{style}]{escape(text)}[/]" if style else escape(text) for text, style in to_cells(result)]
        cells[1] += "".join(f"\n[yellow]{escape(note)}[/]" for note in notes(result))
        table.add_row(*cells)
    return table


def to_markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """Write results, as ``Result.to_json`` gives them, as a Markdown table; missed targets are in bold."""
    rows = []
    for result in results:
        cells = [f"**{text}**" if style == MISSED else text for text, style in to_cells(result)]
        cells[1] += "".join(f"; {note}" for note in notes(result))
        rows.append(cells)
    return markdown_table(HEADINGS, rows, HEADINGS[LEFT_ALIGNED:]) + "\n"


def to_cells(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return one text and style per heading."""
    case, ours, peer = result["case"], result["ours"], result["peer"]
    speed, memory = result["speed"], result["memory"]
    at_least, at_most = case["speed"]["must"], case["memory"]["must"]
    speed_style = memory_style = ""
    if speed is not None and at_least is not None:
        speed_style = REACHED if speed >= at_least else MISSED
    if memory is not None and at_most is not None:
        memory_style = REACHED if memory <= at_most else MISSED
    off = NOTHING if result["map_errors"] is None else f"{max(result['map_errors']):.1e}"
    if result["gradient_error"] is not None:
        off += f", grad {result['gradient_error']:.1e}"
    shares = [NOTHING if side["share"] is None else f"{side['share']:.0%}" for side in (ours, peer)]
    return [
        (case["name"], ""),
        (peer_title(case), ""),
        (duration(ours["median"]), ""),
        (duration(peer["median"]), ""),
        (times(speed), speed_style),
        (times(result["speed_of_fastest"]), ""),
        (targets(case["speed"], least=True), ""),
        (megabytes(ours["peak_bytes"]), ""),
        (megabytes(peer["peak_bytes"]), ""),
        (NOTHING if memory is None else ratio(memory), memory_style),
        (targets(case["memory"], least=False), ""),
        (off, MISSED if result["within_tolerance"] is False else ""),
        (" / ".join(shares), ""),
    ]


def notes(result: Mapping[str, Any]) -> list[str]:
    """Say what went wrong, and whose numbers are compared where they are not the peer's."""
    found = [f"{side} failed: {result[side]['error']}" for side in ("ours", "peer") if result[side]["error"]]
    reference = result["case"]["reference"]
    if reference is not None and (reference != SAME_AS_PEER or result["map_errors"] is None):
        found.append(f"numbers: {result['comparison']}")
    return found


def summary(result: Mapping[str, Any]) -> str:
    """Describe a finished case in one line."""
    cells = dict(zip(HEADINGS, (text for text, _ in to_cells(result)), strict=True))
    figures = f"{cells['faster']} faster, {cells['ratio']} of the memory, off by {cells['off by']}"
    return "; ".join([f"{result['case']['name']}: {figures}", *notes(result)])


def case_list(cases: Iterable[Case]) -> Table:
    """Make a table of the cases that can be measured."""
    table = Table("case", "model", "size", "batch", "mode", "against", "faster, must (aim)", "memory, at most (aim)")
    for case in cases:
        table.add_row(
            case.name,
            case.model_name,
            "x".join(map(str, case.size)),
            str(case.batch),
            case.mode,
            peer_title(vars(case)),
            targets(vars(case.speed), least=True),
            targets(vars(case.memory), least=False),
        )
    return table


def peer_title(case: Mapping[str, Any]) -> str:
    """Name the other side of a case."""
    if case["peer"] != ADAPTER:
        return case["peer"]
    if case["peer_size"]:
        return f"itself at {'x'.join(map(str, case['peer_size']))}"
    return f"itself without {', '.join(key for key in case['options'] if key not in case['peer_options'])}"


def targets(target: Mapping[str, float | None], least: bool) -> str:
    """Write a target: ``7x (10x)`` to be reached at least, ``1/15`` allowed at most."""
    must, aim = (
        NOTHING if value is None else f"{value:g}x" if least else ratio(value)
        for value in (target["must"], target["aim"])
    )
    return must if aim == NOTHING else f"{must} ({aim})"


def ratio(value: float) -> str:
    """Write three digits; below a half as a fraction, ``1/21.3``."""
    return f"1/{1 / value:.3g}" if value < 0.5 else f"{value:.3g}"


def times(value: float | None) -> str:
    """Write a speed-up: ``1.23x``."""
    return NOTHING if value is None else f"{value:.2f}x"


def duration(seconds: float | None) -> str:
    """Write seconds, or milliseconds below ten seconds."""
    if seconds is None:
        return NOTHING
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.0f} ms"


def megabytes(count: int | None) -> str:
    """Write bytes in MiB."""
    return NOTHING if count is None else f"{count / 2**20:,.0f} MiB"


def machine(device: str) -> dict[str, str]:
    """Describe the machine and the versions that figures are taken with."""
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (match := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        name = match[1]
    if device != "cpu":
        name = torch.cuda.get_device_name(device)
    return {"device": name, "cores": str(os.cpu_count()), "torch": torch.__version__, "timm": timm.__version__}
