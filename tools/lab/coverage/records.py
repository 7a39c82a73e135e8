"""Records of every model of timm: the levels that its adapter gives, or why it has none."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import timm
from tqdm import tqdm

from adapters.files import read_json, write_text
from adapters.listing import RECORDS, make_record
from lab.child import ENDED, collect


def survey(time_limit: float, jobs: int = 1) -> None:
    """Build every model that has no record, each in a process of its own, and write ``adapters/listing.json``.

    Args:
        time_limit: seconds for one model.
        jobs: models that are built at the same time.

    Raises:
        ValueError: a model took longer, or its process died.
    """
    table = read_json(RECORDS, {})
    if table.get("timm") != timm.__version__:
        table = {"timm": timm.__version__, "models": {}}
    models = table["models"]
    missing = [name for name in timm.list_models() if name not in models]
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda name: _record(name, time_limit), missing)
        try:
            for name in tqdm(missing, desc="models", dynamic_ncols=True):
                models[name] = next(found)
                write_text(RECORDS, render_records(table))
        finally:
            pool.shutdown(cancel_futures=True)


def render_records(table: Mapping[str, Any]) -> str:
    """Write JSON with a line for each model, sorted by name, so that a change of one model changes one line."""
    models = sorted(table["models"].items())
    lines = [f"{json.dumps(name)}:{json.dumps(found, separators=(',', ':'))}" for name, found in models]
    return f'{{"timm":{json.dumps(table["timm"])},"models":{{\n' + ",\n".join(lines) + "\n}}\n"


def _record(name: str, time_limit: float) -> dict[str, Any]:
    answer = collect(_measure, time_limit, name)
    if ENDED in answer:
        raise ValueError(f"{name}: {answer[ENDED]}; try again with a larger --time-limit.")
    if "refused" in answer:
        return {"refused": answer["refused"]}
    pairs = [pair.split("/") for pair in answer["levels"].split()]
    return {"levels": [[int(channels), int(stride)] for channels, stride in pairs]}


def _measure(name: str) -> Iterator[tuple[str, str]]:
    found = make_record(name)
    if "refused" in found:
        yield "refused", found["refused"]
    else:
        yield "levels", " ".join(f"{channels}/{stride}" for channels, stride in found["levels"])
