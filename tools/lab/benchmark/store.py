"""The file of results: written after each case, and read again to go on where a run was stopped."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.files import write_text
from lab.benchmark.cases import Case
from lab.benchmark.run import Result
from lab.benchmark.settings import Settings


class Store:
    """``results.json``: the machine, the settings and the results by the case's name.

    Args:
        path: of the file.
        settings: of the run.
        machine: what it runs on.
        resume: keep what the file holds.

    Raises:
        ValueError: the file is of a run with other settings or on another machine, or is no file of ours.
    """

    def __init__(self, path: Path, settings: Settings, machine: Mapping[str, str], resume: bool) -> None:
        self.path = path
        self.head = _plain({"machine": machine, "settings": asdict(settings)})
        self.results: dict[str, dict[str, Any]] = {}
        if resume and path.exists():
            try:
                stored = json.loads(path.read_text())
                self.results = stored.pop("results")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"--resume: {path} holds no results of this tool ({error}); remove it.") from error
            if stored != self.head:
                raise ValueError(
                    f"--resume: {path} was measured under {stored}, this run has {self.head}; figures of the two do "
                    "not belong in one table. Choose another --out, or leave out --resume to start again."
                )

    def finished(self, case: Case) -> dict[str, Any] | None:
        """The stored result of this very case, if our side did not fail in it."""
        result = self.results.get(case.name)
        if result is None or result["ours"]["error"] is not None or result["case"] != _plain(asdict(case)):
            return None
        return result

    def add(self, result: Result) -> dict[str, Any]:
        """Write a finished case; returns it as the file has it."""
        value = _plain(result.to_json())
        self.results[value["case"]["name"]] = value
        write_text(self.path, json.dumps({**self.head, "results": self.results}, indent=1) + "\n")
        return value


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    return json.loads(json.dumps(value))
