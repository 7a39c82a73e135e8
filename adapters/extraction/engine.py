"""The local engine: worker processes load, threads of this process compute, another writes.

On a CPU several batches are computed at once, each on a share of the cores: threads that work on batches of their own
never wait for each other, as those that share a matrix product do, and what loading and writing take of one core delays
one batch alone.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from typing_extensions import Self

from adapters.extraction.loading import Batches, LoadedBatch, load_batches
from adapters.extraction.model import BatchFeatures, Extractor
from adapters.extraction.planning import Batch

#: Batches that wait to be written; with more, a slow disk would fill the memory.
WAITING = 2

Computed = tuple[Batch, LoadedBatch, BatchFeatures | str]


def compute(extractor: Extractor, loaded: LoadedBatch) -> BatchFeatures | str:
    """Features of a batch, or why there are none: the memory does not suffice for it."""
    if all(problem is not None for problem in loaded.problems):
        return "no image of the batch could be read"
    try:
        return extractor(loaded.pixels, loaded.sizes)
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        # What torch raises where the CPU's memory is at its end.
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
    size = " x ".join(map(str, loaded.pixels.shape))
    return f"{OUT_OF_MEMORY} for a batch of {size}: extract with a smaller batch_size or size"


#: Begins the reason of a failure that is not the image's: the next start tries again.
OUT_OF_MEMORY = "out of memory"


def run_locally(
    extractor: Extractor, batches: Sequence[Batch], workers: int, lock: Path | None = None
) -> Iterator[Computed]:
    """Compute batches, reading ahead, and give them in their order.

    Args:
        extractor: prepared.
        batches: what to compute.
        workers: processes that load.
        lock: see :func:`~adapters.extraction.loading.load_batches`.
    """
    if not batches:
        return
    source = Batches(batches, extractor.preprocessing, extractor.options.max_decoded)
    streams = min(_streams(extractor), len(batches))
    free: queue.SimpleQueue[Extractor] = queue.SimpleQueue()
    for one in (extractor, *(extractor.twin() for _ in range(streams - 1))):
        free.put(one)

    def compute_on_free(loaded: LoadedBatch) -> BatchFeatures | str:
        one = free.get()
        try:
            return compute(one, loaded)
        finally:
            free.put(one)

    pending: deque[tuple[LoadedBatch, Future[BatchFeatures | str]]] = deque()
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(streams, "compute", torch.set_num_threads, (extractor.options.threads,))
    try:
        for loaded in load_batches(source, workers, lock):
            pending.append((loaded, pool.submit(compute_on_free, loaded)))
            # One more than are computed, so that a stream finds its next batch at once.
            if len(pending) > streams:
                done, future = pending.popleft()
                yield batches[done.number], done, future.result()
        for done, future in pending:
            yield batches[done.number], done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        # Each thread has a number of its own, but MKL's is the process's.
        torch.set_num_threads(threads)


def _streams(extractor: Extractor) -> int:
    """How many batches to compute at once; a GPU takes one after the other."""
    return max(1, torch.get_num_threads() // extractor.options.threads) if extractor.device.type == "cpu" else 1


class Writer:
    """A thread that writes what it is given, in order, while the next batch is computed.

    Args:
        write: what to do with each item; its exceptions are raised by the next :meth:`put`, or at the end.
    """

    def __init__(self, write: Callable[[Computed], None]) -> None:
        self._write = write
        self._queue: queue.Queue[Computed | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def put(self, item: Computed) -> None:
        """Hand over an item; waits while too many are waiting.

        Raises:
            Exception: what writing an earlier item has raised.
        """
        self._queue.put(item)
        self._raise()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until everything is written, also where the computation was interrupted."""
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        failed = False
        while (item := self._queue.get()) is not None:
            if failed:
                continue  # keep taking, so that nobody waits for a place in the queue
            try:
                self._write(item)
            except BaseException as error:
                self._error, failed = error, True
