"""Time and memory against image size, as a picture."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adapters.files import atomic_write
from lab.benchmark.report import peer_title

QUANTITIES = (("median", "seconds", 1.0), ("peak_bytes", "peak memory, MiB", 2.0**-20))
SIDES = (("ours", "-", "o"), ("peer", "--", "s"))


def plot_sweep(results: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Draw a sweep: one colour per case, solid for the adapter and dashed for its peer, both axes logarithmic.

    Args:
        results: as ``Result.to_json`` gives them, of cases made with ``Case.at``.
        path: of the PNG to write.
    """
    by_case: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_case[result["case"]["name"].rpartition("@")[0]].append(result)
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, len(QUANTITIES))
    for panel, (field, label, unit) in zip(panels, QUANTITIES, strict=True):
        for index, (name, runs) in enumerate(by_case.items()):
            _draw_case(panel, f"C{index}", name, runs, field, unit)
        panel.set(xscale="log", yscale="log", xlabel="megapixels", ylabel=label)
        panel.grid(which="both", alpha=0.3)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend()
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _draw_case(panel: Axes, colour: str, name: str, runs: Iterable[Mapping[str, Any]], field: str, unit: float) -> None:
    runs = sorted(runs, key=lambda result: result["case"]["size"][0] * result["case"]["size"][1])
    for side, line, marker in SIDES:
        points = [
            (result["case"]["size"][0] * result["case"]["size"][1] / 1e6, result[side][field] * unit)
            for result in runs
            if result[side][field] is not None
        ]
        if points:
            title = "this package" if side == "ours" else peer_title(runs[0]["case"])
            label = f"{name}, {title}"
            panel.plot(*zip(*points, strict=True), line, marker=marker, color=colour, label=label)
