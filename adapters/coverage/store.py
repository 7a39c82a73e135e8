"""The file that a measurement is kept in, written after each family so that a run can go on where it stopped."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write to a temporary name beside ``path`` and rename."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote; an empty dict if there is nothing yet."""
    return json.loads(path.read_text()) if path.exists() else {}
