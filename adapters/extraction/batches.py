"""Batches of images, read, scaled and padded in worker processes while the model computes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adapters.extraction.planning import Batch
from adapters.extraction.preprocessing import Preprocessing
from adapters.extraction.read_image import Size, UnreadableImageError, read_rgb


@dataclass
class LoadedBatch:
    """A batch of images, before normalisation.

    Attributes:
        number: index of the batch among those to load.
        pixels: bytes ``(B, 3, H, W)``, zero right of each image and below it. An image that could not be read is all
            zeros, so that the batch keeps its size.
        sizes: height and width of each image.
        problems: for each image the reason why it could not be read, or None.
    """

    number: int
    pixels: Tensor
    sizes: tuple[Size, ...]
    problems: list[str | None]

    def count_pixels(self) -> int:
        """Return the number of pixels of all images, pads included."""
        return self.pixels.numel() // self.pixels.shape[1]


class Batches(Dataset[LoadedBatch]):
    """A dataset whose items are batches.

    Args:
        batches: the planned batches.
        preprocessing: scales the images.
        max_decoded: megapixels at which an image is refused.
    """

    def __init__(self, batches: Sequence[Batch], preprocessing: Preprocessing, max_decoded: float) -> None:
        self.batches = batches
        self.preprocessing = preprocessing
        self.max_decoded = max_decoded

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> LoadedBatch:
        batch = self.batches[number]
        height, width = batch.size
        pixels = torch.zeros(len(batch.entries), 3, height, width, dtype=torch.uint8)
        problems: list[str | None] = []
        for position, entry in enumerate(batch.entries):
            try:
                image = read_rgb(entry.path, self.max_decoded)
                if (image.height, image.width) != entry.original:
                    raise UnreadableImageError("the file has changed since the run was planned")
                pixels[position, :, : entry.fed[0], : entry.fed[1]] = self.preprocessing.scale(image)
                problems.append(None)
            except UnreadableImageError as error:
                problems.append(str(error))
        return LoadedBatch(number, pixels, tuple(entry.fed for entry in batch.entries), problems)


def load_batches(batches: Batches, workers: int, lock: Path | None = None) -> Iterator[LoadedBatch]:
    """Load all batches in their order, read ahead by ``workers`` processes; by this one if that is 0.

    Args:
        batches: the batches to load.
        workers: processes.
        lock: a lock file of this process that workers must not hold on to if it dies.
    """
    loader: DataLoader[LoadedBatch] = DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        worker_init_fn=_ReleaseLock(lock),
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


class _ReleaseLock:
    """The first thing that a worker does: close the run's lock, since the run may be killed before its workers."""

    def __init__(self, lock: Path | None) -> None:
        self.lock = lock

    def __call__(self, _: int) -> None:
        if self.lock is None or not self.lock.exists():
            return
        inherited = os.stat(self.lock)
        for name in os.listdir("/dev/fd"):
            try:
                if os.path.samestat(os.fstat(int(name)), inherited):
                    os.close(int(name))
            except OSError:  # the descriptor that listed the folder is closed by now
                continue
