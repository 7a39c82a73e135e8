"""The local engine: worker processes load, threads of this process compute, another writes.

On a CPU several batches are computed at once, each on a share of the cores: threads that work on batches of their own
never wait for each other, as those that share a matrix product do, and what loading and writing take of one core delays
one batch alone. A large image has more of the cores, or all, and then nothing is computed beside it.
"""

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

#: Start of a reason of failure that does not lie in the image: the next start tries again.
OUT_OF_MEMORY = "out of memory"

Computed = tuple[Batch, LoadedBatch, BatchFeatures | str]


def compute(extractor: Extractor, loaded: LoadedBatch) -> BatchFeatures | str:
    """Compute the features of a batch; where the memory does not suffice, return that as the reason."""
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


def run_locally(
    extractor: Extractor, batches: Sequence[Batch], workers: int, lock: Path | None = None
) -> Generator[Computed, None, None]:
    """Compute batches, reading ahead, and yield them in their order; close the generator if you leave it early.

    Args:
        extractor: the model, on its device.
        batches: the batches to compute.
        workers: processes that load.
        lock: see :func:`~adapters.extraction.batches.load_batches`.
    """
    if not batches:
        return
    source = Batches(batches, extractor.preprocessing, extractor.reader)
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
    """Threads that each compute a batch at a time, on their share of torch's threads.

    Args:
        extractor: the model, on its device.
        batch_count: number of batches of the run.

    Attributes:
        pending: batches that are being computed or wait for it, oldest first.
    """

    def __init__(self, extractor: Extractor, batch_count: int) -> None:
        self._extractor = extractor
        self._options = extractor.options
        self._torch_threads = torch.get_num_threads()
        # The folder's run may have been started on more cores than there are here, or on fewer.
        self._budget = _ThreadBudget(min(self._options.threads, self._torch_threads))
        count = min(self._options.streams, max(1, self._budget.total // self._options.threads_of(1)), batch_count)
        self._count = count
        self._pool = ThreadPoolExecutor(count, "compute")
        self.pending: deque[tuple[LoadedBatch, Future[BatchFeatures | str]]] = deque()

    def are_full_for(self, loaded: LoadedBatch) -> bool:
        """Return True if the oldest batch has to be taken before this one may start.

        One batch may wait beside those being computed, so that a stream finds its next at once, unless they are large.
        """
        pixels = sum(other.count_pixels() for other, _ in self.pending) + loaded.count_pixels()
        return len(self.pending) > self._count or (bool(self.pending) and pixels > 2 * BATCH_PIXELS)

    def start(self, loaded: LoadedBatch) -> None:
        """Hand a batch to the next free thread."""
        self.pending.append((loaded, self._pool.submit(self._compute, loaded)))

    def take(self) -> tuple[LoadedBatch, BatchFeatures | str]:
        """Remove the oldest batch from ``pending`` and return it, once it is computed.

        Raises:
            Exception: any that its computation has raised.
        """
        loaded, future = self.pending.popleft()
        features = future.result()
        if isinstance(features, str) and features.startswith(OUT_OF_MEMORY) and self._count > 1:
            # The memory may suffice for this batch alone.
            wait([future for _, future in self.pending])
            features = self._pool.submit(self._compute, loaded).result()
        return loaded, features

    def _compute(self, loaded: LoadedBatch) -> BatchFeatures | str:
        with self._budget.reserve(self._options.threads_of(loaded.count_pixels())):
            return compute(self._extractor, loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the batches that are being computed, and drop those that wait."""
        self._pool.shutdown(cancel_futures=True)
        # Torch keeps its number of threads per thread, but a new thread takes the number that was set last.
        torch.set_num_threads(self._torch_threads)


class _ThreadBudget:
    """A semaphore of which a batch takes several permits at once: the CPU threads that it will use."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Hold ``count`` threads, or all if there are fewer, once they are free."""
        count = min(count, self.total)
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
    """A thread that writes batches in order while the next one is computed; after an error it writes no more.

    Args:
        write: called with each batch; its exceptions are raised by a later :meth:`put`, or at the end.
    """

    def __init__(self, write: Callable[[Computed], None]) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(1, "writer")
        self._pending: deque[Future[None]] = deque()

    def put(self, item: Computed) -> None:
        """Hand over a batch; wait while too many are waiting.

        Raises:
            Exception: any that writing an earlier batch has raised.
        """
        previous = self._pending[-1] if self._pending else None
        self._pending.append(self._pool.submit(self._write_after, previous, item))
        while self._pending and (self._pending[0].done() or len(self._pending) > WAITING + 1):
            self._pending.popleft().result()

    def _write_after(self, previous: Future[None] | None, item: Computed) -> None:
        if previous is not None:
            previous.result()  # raises its error, so that nothing is written after it
        self._write(item)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until everything is written, also where the computation was interrupted."""
        self._pool.shutdown()
        while kind is None and self._pending:
            self._pending.popleft().result()
