"""What is recorded of every image: the lines of the journal while a run is on, the rows of the manifest after it."""

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OK, FAILED = "ok", "failed"


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
        index: in the list of all images.
        status: ``'ok'`` or ``'failed'``.
        reason: why it failed, or None.
        original: height and width of the image, upright; None where it could not be read.
        fed: height and width as the model got it, before padding; None where it did not.
        checksum: SHA-256 of the file of features, or None.
        bytes: size of that file, or None.
        dtype: of the maps, or None.
        top5: index, name (None where the classes have none) and probability of each of the best classes, or None.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reverses it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        """A record from what json made of :meth:`to_json`.

        Raises:
            TypeError: the values are not those of a record.
        """
        pairs = {key: tuple(values[key]) for key in ("original", "fed") if values.get(key) is not None}
        top5 = values.get("top5")
        return cls(**{**values, **pairs, "top5": None if top5 is None else tuple(tuple(item) for item in top5)})


def feature_file_name(path: Path) -> str:
    """The name of an image's file of features: its stem, and a hash of where it is, so that stems may repeat."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)[:80].lstrip(".") or "image"
    return f"{stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.safetensors"


def printable(path: Path) -> str:
    """A path as UTF-8 text; bytes that are none are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
