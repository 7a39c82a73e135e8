"""The folder of a run: one run at a time may write into it, and only with the settings it was started with."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from filelock import FileLock, Timeout

from adapters.extraction.disk import explain_disk_errors, remove_partial_files
from adapters.extraction.extractor import Extractor
from adapters.extraction.feature_files import FEATURES
from adapters.extraction.manifest import MANIFEST
from adapters.extraction.planning import Header
from adapters.files import read_json, write_json

SETTINGS, PLAN, JOURNAL, LOCK = "run.json", "plan.json", "journal.jsonl", ".lock"

#: Seconds that a run waits for the lock: one that was just killed has let go of it by then.
PATIENCE = 2.0


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Hold the folder, so that no other run writes into it; yield the lock's file.

    Raises:
        ValueError: another run holds it, or it cannot be made.
    """
    with explain_disk_errors(out):
        (out / FEATURES).mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(out / LOCK))
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise ValueError(
                f"another run is writing into {out}: wait for it, or give this one another folder with --out."
            ) from error
    try:
        for folder in (out, out / FEATURES):
            remove_partial_files(folder)
        yield out / LOCK
    finally:
        lock.release()


def settings_of(extractor: Extractor, paths: Sequence[Path]) -> dict[str, Any]:
    """Return everything that decides the bytes of a run's results, as ``run.json`` holds it."""
    preprocessing = asdict(extractor.preprocessing)
    del preprocessing["size"]
    values = {
        "model": extractor.name,
        "weights": extractor.fingerprint(),
        "levels": [[level.channels, level.stride] for level in extractor.levels],
        "out_indices": list(extractor.adapter.out_indices),
        "out_norm": extractor.adapter.out_norm,
        **asdict(extractor.options),
        "device": extractor.device.type,
        "preprocessing": preprocessing,
        "images": len(paths),
        "images_sha256": hashlib.sha256(b"\0".join(os.fsencode(path) for path in paths)).hexdigest(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    settings: dict[str, Any] = json.loads(json.dumps(values))
    return settings


def recorded_threads(out: Path) -> int | None:
    """Return the number of threads that a run in this folder was started with; None if there is no run."""
    try:
        return int(read_json(out / SETTINGS)["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_settings(out: Path, wanted: dict[str, Any]) -> None:
    """Write the settings of a new run, or compare them with those that the folder's run was started with.

    Raises:
        ValueError: the folder holds a run of other settings, or something else; the differences are named.
    """
    path = out / SETTINGS
    if not path.exists():
        strangers = sorted(file.name for file in out.iterdir() if file.name not in (FEATURES, LOCK))
        if strangers:
            raise ValueError(f"{out} holds something else ({', '.join(strangers[:5])}): give an empty or new folder.")
        with explain_disk_errors(path):
            write_json(path, wanted)
        return
    try:
        found = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no record of a run: remove the folder or give another one.") from error
    differences = [
        f"{key} {_short(wanted.get(key))} instead of {_short(found.get(key))}"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise ValueError(
            f"{out} holds a run of other options ({', '.join(differences)}): repeat those to go on with it, or give "
            "another folder with --out."
        )


def load_headers(out: Path, count: int) -> list[Header] | None:
    """Load the headers that an earlier start of this run has read; None if there are none of ``count`` images."""
    try:
        headers = read_json(out / PLAN, default=[])
    except (OSError, ValueError):
        return None
    if len(headers) != count:
        return None
    return [header if isinstance(header, str) else (header[0], header[1]) for header in headers]


def save_headers(out: Path, headers: Sequence[Header]) -> None:
    """Save the headers, so that a run that is stopped need not read them again."""
    with explain_disk_errors(out / PLAN):
        write_json(out / PLAN, headers)


def is_finished(out: Path) -> bool:
    """Return True once the folder's run has ended: there is a manifest and no journal of a run that is going on."""
    return (out / MANIFEST).exists() and not (out / JOURNAL).exists()


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."
