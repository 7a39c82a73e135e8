"""A run from its start to its manifest: what is finished stays, the rest is computed and written."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from adapters.extraction.extractor import Extractor
from adapters.extraction.feature_files import FEATURES, write_batch
from adapters.extraction.journal import Journal
from adapters.extraction.local_engine import OUT_OF_MEMORY, Computed, Writer, run_locally
from adapters.extraction.manifest import read_manifest, require_pyarrow, write_manifest
from adapters.extraction.planning import Batch, Plan, make_plan, read_headers
from adapters.extraction.records import FAILED, OK, Record, feature_file_name
from adapters.extraction.run_folder import (
    JOURNAL,
    PLAN,
    check_settings,
    is_finished,
    load_plan,
    locked,
    save_plan,
    settings_of,
)

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        total: images.
        done: images of which there are features.
        new: of these, by this start; the others were there.
        failures: path and reason of each of the others.
    """

    total: int
    done: int
    new: int
    failures: tuple[tuple[str, str], ...]


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
        if is_finished(out) and all_files_there(out):
            return _summary_of_manifest(out)
        headers = load_plan(out, len(paths))
        if headers is None:
            headers = read_headers(paths, extractor.options.max_decoded, workers)
            save_plan(out, headers)
        plan = make_plan(paths, headers, extractor.preprocessing, extractor.pad_multiple, extractor.options)
        journal = Journal(out / JOURNAL)
        try:
            finished = _finished(out, paths, journal)
            results = {**_refused(plan), **finished}
            before = sum(record.status == OK for record in finished.values())
            with tqdm(
                total=len(paths),
                initial=len(results),
                unit="image",
                dynamic_ncols=True,
                disable=None if progress else True,
            ) as bar:
                _extract_rest(extractor, plan, results, journal, out, workers, engine, lock, bar)
        finally:
            journal.close()
        write_manifest(out, paths, results, extractor.levels)
        if not any(_is_transient(record) for record in results.values()):
            (out / JOURNAL).unlink()
            (out / PLAN).unlink()
        summary = _summary_of_manifest(out)
        return Summary(summary.total, summary.done, summary.done - before, summary.failures)


def _extract_rest(
    extractor: Extractor,
    plan: Plan,
    results: dict[int, Record],
    journal: Journal,
    out: Path,
    workers: int,
    engine: str,
    lock: Path,
    bar: tqdm,
) -> None:
    """Compute every batch of which an image is missing, whole, and write the missing ones."""
    pending = [batch for batch in plan.batches if _missing(batch, results)]

    def keep(record: Record) -> None:
        if not _is_transient(record):
            journal.add([record])
        results[record.index] = record
        bar.update()

    if engine == "ray":
        from adapters.extraction.ray_engine import run_on_ray

        for record in run_on_ray(extractor, pending, [_missing(batch, results) for batch in pending], out, workers):
            keep(record)
        return

    def write(item: Computed) -> None:
        batch, loaded, features = item
        features = features if isinstance(features, str) else features.to_cpu()
        for record in write_batch(out, batch, loaded, features, extractor, _missing(batch, results)):
            keep(record)

    with Writer(write) as writer, closing(run_locally(extractor.prepare(), pending, workers, lock)) as computed:
        for item in computed:
            writer.put(item)


def _missing(batch: Batch, results: dict[int, Record]) -> set[int]:
    return {entry.index for entry in batch.entries if entry.index not in results}


def _is_transient(record: Record) -> bool:
    return record.status == FAILED and (record.reason or "").startswith(OUT_OF_MEMORY)


def _refused(plan: Plan) -> dict[int, Record]:
    return {index: Record(index, FAILED, reason, size) for index, (size, reason) in plan.refused.items()}


def _finished(out: Path, paths: Sequence[Path], journal: Journal) -> dict[int, Record]:
    """What the journal says is finished and whose file is there, of its size."""
    finished = {}
    for index, record in journal.records.items():
        if record.status == OK:
            file = out / FEATURES / feature_file_name(paths[index])
            if not file.is_file() or file.stat().st_size != record.bytes:
                continue
        finished[index] = record
    return finished


def all_files_there(out: Path) -> bool:
    """Whether every file that the manifest names is there, of its size."""
    return all(
        (out / row["file"]).is_file() and (out / row["file"]).stat().st_size == row["bytes"]
        for row in read_manifest(out)
        if row["status"] == OK
    )


def _summary_of_manifest(out: Path) -> Summary:
    rows = read_manifest(out)
    failures = tuple((row["path"], row["reason"]) for row in rows if row["status"] != OK)
    return Summary(len(rows), len(rows) - len(failures), 0, failures)
