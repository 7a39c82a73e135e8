"""A run from its start to its manifest: what is finished stays, the rest is computed and written."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adapters.extraction.extractor import Extractor
from adapters.extraction.feature_files import FEATURES, write_batch
from adapters.extraction.local_engine import OUT_OF_MEMORY, Computed, Writer, run_locally
from adapters.extraction.manifest import read_manifest, require_pyarrow, write_manifest
from adapters.extraction.planning import Batch, Plan, make_plan, read_headers
from adapters.extraction.ray_engine import run_on_ray
from adapters.extraction.records import FAILED, OK, Journal, Record, feature_file_name
from adapters.extraction.run_folder import (
    JOURNAL,
    PLAN,
    check_settings,
    is_finished,
    load_headers,
    locked,
    save_headers,
    settings_of,
)

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Summary:
    """The outcome of a run.

    Attributes:
        total: number of images.
        done: number of images that have features.
        new: number of these that this start has extracted; the others were there.
        failures: path and reason of each image without features.
        notes: path and note of each image whose features may surprise.
    """

    total: int
    done: int
    new: int
    failures: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...] = ()


def run_extraction(
    paths: Sequence[Path],
    extractor: Extractor,
    out: Path,
    workers: int = 2,
    engine: str = "local",
    progress: bool = True,
) -> Summary:
    """Extract images into a folder, or go on where an earlier start was stopped.

    Args:
        paths: all images, absolute.
        extractor: the model.
        out: the folder; made where it is not there.
        workers: processes that load images, or with Ray, processes that compute.
        engine: ``'local'`` or ``'ray'``.
        progress: show a bar with the rate and the time left.

    Raises:
        ValueError: another run is on in this folder, or it holds a run of other options, or the disk is full.
        ModuleNotFoundError: pyarrow or ray is not installed.
    """
    require_pyarrow()
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} must be one of {', '.join(ENGINES)}.")
    with locked(out) as lock:
        check_settings(out, settings_of(extractor, paths))
        if is_finished(out):
            rows = read_manifest(out)
            if all(_is_there(out / row["file"], row["bytes"]) for row in rows if row["status"] == OK):
                return _summarise(rows, new=0)
        plan = _plan(paths, extractor, out, workers)
        with closing(Journal(out / JOURNAL)) as journal:
            results = {index: Record(index, FAILED, reason, size) for index, (size, reason) in plan.refused.items()}
            results |= _finished(out, paths, journal.records)
            before = sum(record.status == OK for record in results.values())

            def keep(record: Record) -> None:
                if not _is_transient(record):
                    journal.add(record)
                results[record.index] = record
                bar.update()

            missing = [{entry.index for entry in batch.entries} - results.keys() for batch in plan.batches]
            pending = [number for number, indices in enumerate(missing) if indices]
            batches, missing = [plan.batches[number] for number in pending], [missing[number] for number in pending]
            hidden = None if progress else True
            with tqdm(total=len(paths), initial=len(results), unit="image", dynamic_ncols=True, disable=hidden) as bar:
                if engine == "ray":
                    for record in run_on_ray(extractor, batches, missing, out, workers):
                        keep(record)
                else:
                    _compute_here(extractor, batches, missing, out, workers, lock, keep)
        write_manifest(out, paths, results, extractor.levels)
        if not any(_is_transient(record) for record in results.values()):
            (out / JOURNAL).unlink()
            (out / PLAN).unlink()
        rows = read_manifest(out)
        return _summarise(rows, new=sum(row["status"] == OK for row in rows) - before)


def _plan(paths: Sequence[Path], extractor: Extractor, out: Path, workers: int) -> Plan:
    options = extractor.options
    headers = load_headers(out, len(paths))
    if headers is None:
        headers = read_headers(paths, extractor.reader, workers)
        save_headers(out, headers)
    return make_plan(paths, headers, extractor.preprocessing, extractor.pad_multiple, options)


def _compute_here(
    extractor: Extractor,
    batches: Sequence[Batch],
    missing: Sequence[set[int]],
    out: Path,
    workers: int,
    lock: Path,
    keep: Callable[[Record], None],
) -> None:
    """Compute batches completely, as their bytes demand, and write the files of the missing images alone."""

    def write(item: Computed) -> None:
        batch, loaded, features = item
        features = features if isinstance(features, str) else features.to_cpu()
        for record in write_batch(out, batch, loaded, features, extractor, missing[loaded.number]):
            keep(record)

    with Writer(write) as writer, closing(run_locally(extractor.prepare(), batches, workers, lock)) as computed:
        for item in computed:
            writer.put(item)


def _is_transient(record: Record) -> bool:
    """Return True for a failure that the next start tries again."""
    return record.status == FAILED and (record.reason or "").startswith(OUT_OF_MEMORY)


def _is_there(file: Path, size: int | None) -> bool:
    return file.is_file() and file.stat().st_size == size


def _finished(out: Path, paths: Sequence[Path], records: Mapping[int, Record]) -> dict[int, Record]:
    """Return the records of images that failed, or whose feature file is there and complete."""
    return {
        index: record
        for index, record in records.items()
        if record.status != OK or _is_there(out / FEATURES / feature_file_name(paths[index]), record.bytes)
    }


def _summarise(rows: Sequence[Mapping[str, Any]], new: int) -> Summary:
    failures = tuple((row["path"], row["reason"]) for row in rows if row["status"] != OK)
    # Manifests of earlier versions have no notes.
    notes = tuple((row["path"], row["note"]) for row in rows if row.get("note"))
    return Summary(len(rows), len(rows) - len(failures), new, failures, notes)
