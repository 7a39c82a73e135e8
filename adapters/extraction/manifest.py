"""The manifest of a finished run: a Parquet table with a row per image, in the order of the input."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.extraction.disk import write_file
from adapters.extraction.feature_files import FEATURES
from adapters.extraction.records import OK, Record, feature_file_name, printable
from adapters.levels import Level

MANIFEST = "manifest.parquet"


def require_pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the manifest of an extraction needs pyarrow: install it with `pip install 'dense-adapters[extract]'`."
        ) from error
    return pyarrow


def write_manifest(out: Path, paths: Sequence[Path], records: Mapping[int, Record], levels: Sequence[Level]) -> None:
    """Write ``manifest.parquet``; the same records give the same bytes.

    Args:
        out: the run's folder.
        paths: the paths of all images.
        records: a record for each, by index.
        levels: levels of the maps; none where only vectors are kept.

    Raises:
        ValueError: the disk is full or cannot be written to.
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow = require_pyarrow()
    rows = [_row(path, records[index], levels) for index, path in enumerate(paths)]
    buffer = io.BytesIO()
    arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=_schema(arrow)), buffer)
    write_file(out / MANIFEST, buffer.getvalue())


def read_manifest(out: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's manifest.

    Raises:
        ValueError: there is none.
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow = require_pyarrow()
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} holds no {MANIFEST}: let the extraction finish first.")
    rows: list[dict[str, Any]] = arrow.parquet.read_table(out / MANIFEST).to_pylist()
    return rows


def _schema(arrow: Any) -> Any:
    text, integer = arrow.string(), arrow.int32()
    fields = {
        **dict.fromkeys(("path", "file", "status", "reason", "note"), text),
        **dict.fromkeys(("original_height", "original_width", "fed_height", "fed_width"), integer),
        **dict.fromkeys(("strides", "channels"), arrow.list_(integer)),
        **dict.fromkeys(("dtype", "checksum"), text),
        "bytes": arrow.int64(),
        "top5_index": arrow.list_(integer),
        "top5_class": arrow.list_(text),
        "top5_probability": arrow.list_(arrow.float32()),
    }
    return arrow.schema(list(fields.items()))


def _row(path: Path, record: Record, levels: Sequence[Level]) -> dict[str, Any]:
    done = record.status == OK
    original, fed = record.original or (None, None), record.fed or (None, None)
    indices, classes, probabilities = zip(*record.top5, strict=True) if record.top5 else (None, None, None)
    return {
        "path": printable(path),
        "file": f"{FEATURES}/{feature_file_name(path)}" if done else None,
        "status": record.status,
        "reason": record.reason,
        "note": record.note,
        "original_height": original[0],
        "original_width": original[1],
        "fed_height": fed[0],
        "fed_width": fed[1],
        "strides": [level.stride for level in levels] if done else None,
        "channels": [level.channels for level in levels] if done else None,
        "dtype": record.dtype,
        "checksum": record.checksum,
        "bytes": record.bytes,
        "top5_index": indices,
        "top5_class": classes,
        "top5_probability": probabilities,
    }
