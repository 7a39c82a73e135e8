"""The Ray engine: a Ray Data pipeline whose tasks load batches, and whose actors compute and write them.

The batches are those of the plan, every actor runs the function that the local engine runs, with the same threads, and
writes the same files into the run's folder, which all machines must see under the same path. This process alone keeps
the journal. Machines of different processors may differ in the last bits.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from adapters.extraction.batches import Batches, LoadedBatch
from adapters.extraction.extractor import Extractor
from adapters.extraction.feature_files import write_batch
from adapters.extraction.local_engine import compute
from adapters.extraction.planning import Batch
from adapters.extraction.records import Record

#: Blocks that Ray cuts the batches into for each actor: small ones spread the work evenly.
BLOCKS_PER_WORKER = 16

#: Columns of a loaded batch on its way from a task to an actor.
COLUMNS = ("number", "dtype", "shape", "sizes", "pixels", "problems", "notes")


def require_ray() -> Any:
    """Import Ray Data.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--engine ray needs Ray Data, but {error.name} is missing: install it with "
            "`pip install 'dense-adapters[ray]'`."
        ) from error
    return ray


class _Load:
    """Load a batch by number, for Ray Data's ``map``; pixels travel as bytes, since batches differ in size."""

    def __init__(self, source: Batches) -> None:
        self.source = source

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        loaded = self.source[int(row["number"])]
        return {
            "number": loaded.number,
            "dtype": str(loaded.pixels.dtype).removeprefix("torch."),
            "shape": json.dumps(list(loaded.pixels.shape)),
            "sizes": json.dumps(loaded.sizes),
            "pixels": loaded.pixels.numpy().tobytes(),
            "problems": json.dumps(loaded.problems),
            "notes": json.dumps(loaded.notes),
        }


class _Worker:
    """An actor of Ray Data that computes a batch, writes its files and returns their records."""

    def __init__(self, extractor: Any, batches: Any, missing: Any, out: str) -> None:
        ray = require_ray()
        self.extractor: Extractor = ray.get(extractor).prepare()
        self.batches: Sequence[Batch] = ray.get(batches)
        self.missing: Sequence[set[int]] = ray.get(missing)
        self.out = Path(out)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        lines = []
        for number, dtype, shape, sizes, pixels, problems, notes in zip(*(rows[key] for key in COLUMNS), strict=True):
            tensor = torch.frombuffer(bytearray(pixels), dtype=getattr(torch, dtype)).view(json.loads(shape))
            fed = tuple((height, width) for height, width in json.loads(sizes))
            loaded = LoadedBatch(int(number), tensor, fed, json.loads(problems), json.loads(notes))
            features = compute(self.extractor, loaded)
            features = features if isinstance(features, str) else features.to_cpu()
            batch, missing = self.batches[loaded.number], self.missing[loaded.number]
            for record in write_batch(self.out, batch, loaded, features, self.extractor, missing):
                lines.append(record.to_line())
        return {"record": lines}


def run_on_ray(
    extractor: Extractor, batches: Sequence[Batch], missing: Sequence[set[int]], out: Path, workers: int
) -> Iterator[Record]:
    """Compute and write batches over a Ray cluster, and yield each image's record once its file is there.

    The cluster is the one that ``RAY_ADDRESS`` names, or else one started on this machine.

    Args:
        extractor: the model, not prepared; a copy goes to every actor.
        batches: the batches to compute.
        missing: for each batch, the indices of the images whose files are to be written.
        out: the run's folder, on storage that all machines share.
        workers: actors; each has as many CPUs as the largest batch has threads, or a GPU if the device is one.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: a worker could not write.
    """
    ray = require_ray()
    if not batches:
        return
    options = extractor.options
    workers = max(workers, 1)
    on_gpu = extractor.device.type == "cuda"
    threads = 1 if on_gpu else max(options.threads_of(batch.pixels) for batch in batches)
    started = not ray.is_initialized()
    if started and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif started:
        # Actors take their threads; loading needs CPUs beside them.
        ray.init(num_cpus=workers * (threads + 1), include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        arguments = [ray.put(value) for value in (extractor, list(batches), list(missing))]
        numbers = [{"number": number} for number in range(len(batches))]
        dataset = ray.data.from_items(numbers, override_num_blocks=min(len(batches), BLOCKS_PER_WORKER * workers))
        dataset = dataset.map(_Load(Batches(batches, extractor.preprocessing, extractor.reader)), num_cpus=1)
        dataset = dataset.map_batches(
            _Worker,
            fn_constructor_args=(*arguments, str(out.absolute())),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            # One CPU of each machine is for loading.
            num_cpus=min(threads, max(1, _smallest_machine(ray) - 1)),
            num_gpus=int(on_gpu),
        )
        for row in dataset.iter_rows():
            yield Record.from_line(row["record"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        raise
    finally:
        if started:
            ray.shutdown()


def _smallest_machine(ray: Any) -> int:
    """Return the CPUs of the machine that has fewest: an actor that wants more would wait for ever."""
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return min((cpus for cpus in machines if cpus), default=1)
