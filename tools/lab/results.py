"""Results of a measurement in a JSON file, written after each, so that a run goes on where it was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.files import read_json, write_json


class Results:
    """Results by name, beside the conditions under which all of them were taken.

    Args:
        path: of the file.
        conditions: of this run, such as its settings and the machine; the first level of the file.
        resume: keep the results that the file holds.

    Raises:
        ValueError: the file holds results of other conditions, or is no file of results.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any], resume: bool = True) -> None:
        self.path = path
        self.conditions = as_json(conditions)
        self.by_name: dict[str, dict[str, Any]] = {}
        if not (resume and path.exists()):
            return
        try:
            held = read_json(path)
            self.by_name = held.pop("results")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no results of this tool ({error}): delete it.") from error
        if held != self.conditions:
            raise ValueError(
                f"{path} holds results that were taken under {held}, this run has {self.conditions}; the two do not "
                "belong in one table. Give another --out, or delete the file."
            )

    def add(self, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write a result; return it as the file holds it."""
        self.by_name[name] = as_json(result)
        write_json(self.path, {**self.conditions, "results": self.by_name})
        return self.by_name[name]


def as_json(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))
