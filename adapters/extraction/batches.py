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
from adapters.extraction.read_image import ImageReader
from adapters.extraction.stored import Size, UnreadableImageError


@dataclass
class LoadedBatch:
    """A batch of images, before normalisation.

    Attributes:
        number: index of the batch among those to load.
        pixels: ``(B, C, H, W)`` of 0..255, zero right of each image and below it; bytes, or fp32 where an image of the
            batch has more than 8 bits. An image that could not be read is all zeros, so that the batch keeps its size.
        sizes: height and width of each image.
        problems: for each image the reason why it could not be read, or None.
        notes: for each image what may surprise in it, or None.
    """

    number: int
    pixels: Tensor
    sizes: tuple[Size, ...]
    problems: list[str | None]
    notes: list[str | None]

    def count_pixels(self) -> int:
        """Return the number of pixels of all images, pads included."""
        return self.pixels.numel() // self.pixels.shape[1]


class Batches(Dataset[LoadedBatch]):
    """A dataset whose items are batches.

    Args:
        batches: the planned batches.
        preprocessing: scales the images.
        reader: reads them.
    """

    def __init__(self, batches: Sequence[Batch], preprocessing: Preprocessing, reader: ImageReader) -> None:
        self.batches = batches
        self.preprocessing = preprocessing
        self.reader = reader

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> LoadedBatch:
        batch = self.batches[number]
        problems: list[str | None] = []
        notes: list[str | None] = []
        images: dict[int, Tensor] = {}
        for position, entry in enumerate(batch.entries):
            problem = note = None
            try:
                picture = self.reader.read(entry.source)
                if picture.size != entry.original:
                    raise UnreadableImageError("the file has changed since the run was planned")
                images[position], note = self.preprocessing.scale(picture.pixels), picture.note
            except UnreadableImageError as error:
                problem = str(error)
            problems.append(problem)
            notes.append(note)
        deep = any(image.dtype != torch.uint8 for image in images.values())
        shape = (len(batch.entries), self.reader.channels, *batch.size)
        pixels = torch.zeros(shape, dtype=torch.float32 if deep else torch.uint8)
        for position, image in images.items():
            pixels[position, :, : image.shape[1], : image.shape[2]] = image
        return LoadedBatch(number, pixels, tuple(entry.fed for entry in batch.entries), problems, notes)


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
