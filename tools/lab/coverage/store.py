"""The file that a measurement is kept in, written after each family so that a run can go on where it stopped."""

import json
from pathlib import Path
from typing import Any

from adapters.files import write_text


def write_json(path: Path, value: Any) -> None:
    """A line for each item, the whole file or nothing."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote; an empty dict if there is nothing yet."""
    return json.loads(path.read_text()) if path.exists() else {}
