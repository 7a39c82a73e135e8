"""Records of images, one each: lines of the journal while a run goes on, rows of the manifest after it."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.extraction.disk import explain_disk_errors

OK, FAILED = "ok", "failed"


@dataclass(frozen=True)
class Record:
    """The result of one image, without its features.

    Attributes:
        index: place of the image in the list of all images.
        status: ``'ok'`` or ``'failed'``.
        reason: why it failed, or None.
        original: height and width of the image, upright; None where it could not be read.
        fed: height and width of the model's input, before padding; None where there was none.
        checksum: SHA-256 of the feature file, or None.
        bytes: size of the feature file, or None.
        dtype: dtype of the maps, or None.
        top5: index, name (None where the classes have none) and probability of each of the best classes, or None.
        note: what may surprise in the image, such as that it is dark, or None.
    """

    index: int
    status: str
    reason: str | None = None
    original: tuple[int, int] | None = None
    fed: tuple[int, int] | None = None
    checksum: str | None = None
    bytes: int | None = None
    dtype: str | None = None
    top5: tuple[tuple[int, str | None, float], ...] | None = None
    note: str | None = None

    def to_line(self) -> str:
        """Return the record as a line of JSON; :meth:`from_line` reverses it."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Record":
        """Read a record from a line that :meth:`to_line` gave.

        Raises:
            ValueError: the line is no JSON.
            TypeError: the values are not those of a record.
        """
        values = json.loads(line)
        pairs = {key: tuple(values[key]) for key in ("original", "fed") if values.get(key) is not None}
        top5 = values.get("top5")
        return cls(**{**values, **pairs, "top5": None if top5 is None else tuple(tuple(item) for item in top5)})


class Journal:
    """The records of the images that are finished, in a file that grows by a line as soon as an image's file is there.

    Opening a journal drops a last line that a kill or a full disk has cut short.

    Args:
        path: the file; need not exist.

    Attributes:
        records: the records by index of the image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        kept = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            try:
                record = Record.from_line(line.decode())
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            kept += len(line)
            self.records[record.index] = record
        with explain_disk_errors(path):
            self._file = path.open("ab", buffering=0)
            self._file.truncate(kept)

    def add(self, record: Record) -> None:
        """Append a record.

        Raises:
            ValueError: the disk is full or cannot be written to.
        """
        line = record.to_line().encode()
        with explain_disk_errors(self.path):
            written = self._file.write(line)
            if written != len(line):
                self._file.write(line[written:])
        self.records[record.index] = record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def feature_file_name(path: Path) -> str:
    """Return the name of an image's feature file: its stem and a hash of its path, so that stems may repeat."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)[:80].lstrip(".") or "image"
    return f"{stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.safetensors"


def printable(path: Path) -> str:
    """Return a path as UTF-8 text, with bytes that are not UTF-8 escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
