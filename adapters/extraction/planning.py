"""The plan of an extraction: its batches, decided from the full list of images before anything runs.

The last bits of a result depend on the batch that an image was in, so the batches are a function of the images, their
sizes and the options alone. A run that was stopped makes the same ones again, and so does any number of workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from adapters.extraction.options import ExtractionOptions
from adapters.extraction.preprocessing import Preprocessing
from adapters.extraction.read_image import ImageReader, Source
from adapters.extraction.stored import MEGAPIXEL, Size, UnreadableImageError

#: The size of an image from its header, or the reason why it cannot be read.
Header = Size | str


@dataclass(frozen=True)
class Entry:
    """One image to feed.

    Attributes:
        index: place in the list of all images.
        source: the file, or the image in memory.
        original: height and width of the image, upright.
        fed: height and width of the model's input, before padding.
    """

    index: int
    source: Source
    original: Size
    fed: Size


@dataclass(frozen=True)
class Batch:
    """Images that are fed together.

    Attributes:
        entries: the images.
        size: height and width to which they are padded.
    """

    entries: tuple[Entry, ...]
    size: Size

    @property
    def pixels(self) -> int:
        """Number of pixels of all images, pads included."""
        return len(self.entries) * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Plan:
    """The batches of a run.

    Attributes:
        batches: all batches, in order.
        refused: for each image that will not be fed, by index: its size, where known, and the reason.
    """

    batches: tuple[Batch, ...]
    refused: dict[int, tuple[Size | None, str]]


def read_headers(sources: Sequence[Source], reader: ImageReader, workers: int) -> list[Header]:
    """Read the size of every image, in ``workers`` processes if there are many images."""
    workers = 0 if len(sources) < 1000 else workers
    read = partial(_read_sizes, reader=reader)
    # A list is as good as a Dataset, which is what DataLoader's types ask for.
    images: Any = list(sources)
    loader: DataLoader[list[Header]] = DataLoader(images, batch_size=64, num_workers=workers, collate_fn=read)
    return [header for headers in loader for header in headers]


def _read_sizes(sources: Sequence[Source], reader: ImageReader) -> list[Header]:
    headers: list[Header] = []
    for source in sources:
        try:
            headers.append(reader.read_size(source))
        except UnreadableImageError as error:
            headers.append(str(error))
    return headers


def make_plan(
    sources: Sequence[Source],
    headers: Sequence[Header],
    preprocessing: Preprocessing,
    pad_multiple: int,
    options: ExtractionOptions,
) -> Plan:
    """Group images whose padded sizes are equal, in the order in which they come.

    An adapter pads to a multiple of its stride anyway, so that sharing a batch changes nothing in an image's maps but
    rounding.

    Args:
        sources: all images.
        headers: their sizes, from :func:`read_headers`.
        preprocessing: decides the size at which each is fed.
        pad_multiple: multiple to which the model pads.
        options: limits of batches and images.
    """
    refused: dict[int, tuple[Size | None, str]] = {}
    open_batches: dict[Size, list[Entry]] = {}
    batches: list[Batch] = []
    for index, (source, header) in enumerate(zip(sources, headers, strict=True)):
        if isinstance(header, str):
            refused[index] = (None, header)
            continue
        height, width = fed = preprocessing.fed_size(header)
        if min(fed) < 1 or height * width > options.max_pixels * MEGAPIXEL:
            reason = (
                f"{height * width / MEGAPIXEL:.1f} megapixels ({height} x {width}), more than are fed: max_pixels is "
                f"{options.max_pixels:g}; size= scales images"
            )
            refused[index] = (header, reason if min(fed) else f"scaled to {height} x {width}, which is nothing")
            continue
        padded = (-(-height // pad_multiple) * pad_multiple, -(-width // pad_multiple) * pad_multiple)
        entries = open_batches.setdefault(padded, [])
        entries.append(Entry(index, source, header, fed))
        if len(entries) >= min(options.batch_size, max(1, options.batch_pixels // (padded[0] * padded[1]))):
            batches.append(Batch(tuple(open_batches.pop(padded)), padded))
    batches += [Batch(tuple(entries), padded) for padded, entries in open_batches.items()]
    return Plan(tuple(batches), refused)
