"""The measurement of all families, kept in a file so that it goes on where it stopped.

The file is the table behind ``docs/coverage.md``: rows of several subjects, each added by itself, which
:class:`lab.results.Results` has no place for.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import timm
import torch
from tqdm import tqdm

from adapters.files import read_json, write_json
from lab.child import collect
from lab.coverage import measure, peers
from lab.coverage.representatives import Representative

#: The subjects that are measured, in the order of the table.
SUBJECTS = {
    "adapters": lambda one, sizes: measure.measure_ours(one, sizes, steps=True),
    "timm": peers.measure_timm,
    "mmseg": peers.measure_mmseg,
}


def run(
    models: Sequence[Representative], results: Path, time_limit: float, again: Sequence[str] = (), jobs: int = 1
) -> dict:
    """Measure every model that is not in ``results`` yet; return the table.

    Args:
        models: one for each family.
        results: JSON file, written after each.
        time_limit: seconds for one cell.
        again: families to measure anew.
        jobs: families that are measured at the same time.
    """
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
        for subject, function in SUBJECTS.items():
            if subject not in row:
                cells = collect(function, time_limit, one, measure.all_sizes(one))
                with writing:
                    row[subject] = cells
                    write_json(results, table)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in tqdm(pool.map(measure_family, models), desc="families", total=len(models), dynamic_ncols=True):
            pass
    return table
