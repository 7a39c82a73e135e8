"""The local engine: worker processes load, threads of this process compute, another writes.

On a CPU several batches are computed at once, each on a share of the cores: threads that work on batches of their own
never wait for each other, as those that share a matrix product do, and what loading and writing take of one core delays
one batch alone. A large image has more of the cores, or all, and then nothing is computed beside it.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import torch
from typing_extensions import Self

from adapters.extraction.batches import Batches, LoadedBatch, load_batches
from adapters.extraction.extractor import BatchFeatures, Extractor
from adapters.extraction.options import BATCH_PIXELS
from adapters.extraction.planning import Batch

#: Batches that wait to be written; with more, a slow disk would fill the memory.
WAITING = 1

Computed = tuple[Batch, LoadedBatch, BatchFeatures | str]


def compute(extractor: Extractor, loaded: LoadedBatch) -> BatchFeatures | str:
    """Features of a batch, or why there are none: the memory does not suffice for it."""
    if all(problem is not None for problem in loaded.problems):
        return "no image of the batch could be read"
    threads = extractor.options.threads_of(loaded.count_pixels())
    if torch.get_num_threads() != threads:  # setting it costs oneDNN what it has prepared
        torch.set_num_threads(threads)
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
) -> Generator[Computed, None, None]:
    """Compute batches, reading ahead, and give them in their order. Close it where it is left before its end.

    Args:
        extractor: prepared.
        batches: what to compute.
        workers: processes that load.
        lock: see :func:`~adapters.extraction.batches.load_batches`.
    """
    if not batches:
        return
    source = Batches(batches, extractor.preprocessing, extractor.options.max_decoded)
    with _Streams(extractor, len(batches)) as streams:
        for loaded in load_batches(source, workers, lock):
            while streams.are_full_for(loaded):
                done, features = streams.take()
                yield batches[done.number], done, features
            streams.start(loaded)
        while streams.pending:
            done, features = streams.take()
            yield batches[done.number], done, features


class _Streams:
    """Threads that compute batches, as many at once as there are threads of torch's for.

    Args:
        extractor: prepared.
        most: batches that there are.

    Attributes:
        pending: batches that are computed or wait for it, oldest first.
    """

    def __init__(self, extractor: Extractor, most: int) -> None:
        self._options = extractor.options
        self._before = torch.get_num_threads()
        # The folder's run may have been started on more cores than there are here, or on fewer.
        self._threads = _Places(min(self._options.threads, self._before))
        count = min(self._options.streams, max(1, self._threads.count // self._options.threads_of(1)), most)
        self._free: queue.SimpleQueue[Extractor] = queue.SimpleQueue()
        for one in (extractor, *(extractor.twin() for _ in range(count - 1))):
            self._free.put(one)
        self._count = count
        self._pool = ThreadPoolExecutor(count, "compute")
        self.pending: deque[tuple[LoadedBatch, Future[BatchFeatures | str]]] = deque()

    def are_full_for(self, loaded: LoadedBatch) -> bool:
        """Whether the oldest batch has to be taken before this one may start.

        One more than are computed may be there, so that a stream finds its next batch at once, unless they are large.
        """
        pixels = sum(one.count_pixels() for one, _ in self.pending) + loaded.count_pixels()
        return len(self.pending) > self._count or (bool(self.pending) and pixels > 2 * BATCH_PIXELS)

    def start(self, loaded: LoadedBatch) -> None:
        """Have a batch computed."""
        self.pending.append((loaded, self._pool.submit(self._compute, loaded)))

    def take(self) -> tuple[LoadedBatch, BatchFeatures | str]:
        """The oldest batch, once it is computed.

        Raises:
            Exception: what computing it has raised.
        """
        loaded, future = self.pending.popleft()
        features = future.result()
        if isinstance(features, str) and features.startswith(OUT_OF_MEMORY) and self._count > 1:
            # Perhaps it does suffice for this one alone.
            wait([future for _, future in self.pending])
            features = self._pool.submit(self._compute, loaded).result()
        return loaded, features

    def _compute(self, loaded: LoadedBatch) -> BatchFeatures | str:
        with self._threads.taken(self._options.threads_of(loaded.count_pixels())):
            one = self._free.get()
            try:
                return compute(one, loaded)
            finally:
                self._free.put(one)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the batches that are being computed, and drop those that are not yet."""
        self._pool.shutdown(cancel_futures=True)
        # Each thread has a number of its own, but one that is new takes what was set last.
        torch.set_num_threads(self._before)


class _Places:
    """So many places, several of which may be taken at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Hold places, once there are enough; all of them where there are fewer."""
        count = min(count, self.count)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


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
