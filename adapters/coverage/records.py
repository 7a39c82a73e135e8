"""A record of every model of timm: the levels that its adapter gives, or why it has none."""

from collections.abc import Iterator

import timm
from tqdm import tqdm

from adapters.coverage.child import collect
from adapters.coverage.store import read_json, write_json
from adapters.listing import RECORDS, make_record

#: Models between two writings of the file.
STRIDE = 20


def survey(time_limit: float) -> None:
    """Build every model that has no record, each in a process of its own, and write ``adapters/listing.json``.

    Args:
        time_limit: seconds for one model.

    Raises:
        ValueError: a model took longer, or its process died.
    """
    table = read_json(RECORDS)
    if table.get("timm") != timm.__version__:
        table = {"timm": timm.__version__, "models": {}}
    models = table["models"]
    missing = [name for name in timm.list_models() if name not in models]
    for index, name in enumerate(tqdm(missing, desc="models", dynamic_ncols=True)):
        answer = collect(_measure, time_limit, name)
        if "ended" in answer:
            raise ValueError(f"{name}: {answer['ended']}; try again with a larger --time-limit.")
        if "refused" in answer:
            models[name] = {"refused": answer["refused"]}
        else:
            pairs = [pair.split("/") for pair in answer["levels"].split()]
            models[name] = {"levels": [[int(channels), int(stride)] for channels, stride in pairs]}
        if index % STRIDE == 0:
            write_json(RECORDS, table)
    write_json(RECORDS, table)


def _measure(name: str) -> Iterator[tuple[str, str]]:
    found = make_record(name)
    if "refused" in found:
        yield "refused", found["refused"]
    else:
        yield "levels", " ".join(f"{channels}/{stride}" for channels, stride in found["levels"])
