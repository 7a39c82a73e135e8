"""Atomic writes: a file appears under its name only once it is complete. Text and JSON are written the same way."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Ending of the name that a file has while it is being written.
PART = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` at the end; after an error nothing is left.

    >>> with atomic_write(path) as partial:
    ...     partial.write_bytes(data)

    Args:
        path: the file to write; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, default: Any = None) -> Any:
    """Read a JSON file; where there is none, return ``default``."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default
