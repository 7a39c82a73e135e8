"""The measurement of all families, kept in a file so that it goes on where it stopped.

The file is the table behind ``docs/coverage.md``: rows of several subjects, each added by itself, which
:class:`lab.results.Results` has no place for.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import timm
import torch
from tqdm import tqdm

from adapters.files import read_json, write_json
from lab.child import Cells, collect
from lab.coverage import measure, peers
from lab.coverage.representatives import Representative

Subjects = Mapping[str, Callable[[Representative], Cells]]

#: The subjects of ``docs/coverage.md``.
SUBJECTS: Subjects = {
    "adapters": lambda one: measure.measure_ours(one, measure.all_sizes(one), steps=True),
    "timm": lambda one: peers.measure_timm(one, measure.all_sizes(one)),
    "mmseg": lambda one: peers.measure_mmseg(one, measure.all_sizes(one)),
}


def run(
    models: Sequence[Representative],
    results: Path,
    subjects: Subjects,
    time_limit: float,
    again: Sequence[str] = (),
    jobs: int = 1,
    stop_after: float = math.inf,
) -> dict:
    """Measure every model that is not in ``results`` yet; return the table.

    Args:
        models: one for each family.
        results: JSON file, written after each.
        subjects: what is measured of each family, in the order of the table.
        time_limit: seconds for one cell.
        again: families to measure anew.
        jobs: families that are measured at the same time.
        stop_after: seconds after which no further family is begun.
    """
    started = time.monotonic()
    table = read_json(results, {})
    if table.get("timm") != timm.__version__:
        table = {"timm": timm.__version__, "torch": torch.__version__.split("+")[0], "families": {}}
    rows = table["families"]
    for one in models:
        row = rows.setdefault(one.family, {})
        if row.get("model") != one.model_name or one.family in again:
            row.clear()
        row.update(model=one.model_name, parameters=one.parameters, native=list(one.native))
    writing = Lock()

    def measure_family(one: Representative) -> None:
        row = rows[one.family]
        for subject, function in subjects.items():
            if subject not in row and time.monotonic() - started < stop_after:
                cells = collect(function, time_limit, one)
                with writing:
                    row[subject] = cells
                    write_json(results, table)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in tqdm(pool.map(measure_family, models), desc="families", total=len(models), dynamic_ncols=True):
            pass
    return table
