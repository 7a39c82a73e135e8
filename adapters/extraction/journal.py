"""Which images are finished, while a run is on: a line of json each, appended once an image's file is there."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from adapters.extraction.feature_files import told_in_one_line
from adapters.extraction.records import Record


class Journal:
    """The journal of a run, opened to go on.

    A line that a kill or a full disk has cut short is dropped, and so is the line of a file that is gone.

    Args:
        path: of the journal; need not exist.

    Attributes:
        records: of what is finished, by the index of the image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        kept = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    record = Record.from_json(json.loads(line))
                except (ValueError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                kept += len(line)
                self.records[record.index] = record
            os.truncate(path, kept)
        with told_in_one_line(path):
            self._file = path.open("ab", buffering=0)

    def add(self, records: Iterable[Record]) -> None:
        """Append records, each of which is finished as soon as its line is there.

        Raises:
            ValueError: the disk is full or cannot be written to.
        """
        for record in records:
            line = json.dumps(record.to_json()).encode() + b"\n"
            with told_in_one_line(self.path):
                written = self._file.write(line)
                if written != len(line):
                    self._file.write(line[written:])
            self.records[record.index] = record

    def close(self) -> None:
        """Close the file."""
        self._file.close()
