"""``adapters.extract``: features of files or of images in memory, without a folder of results."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adapters.base import BackboneAdapter
from adapters.extraction.arrays import from_memory
from adapters.extraction.building import build_extractor
from adapters.extraction.feature_files import split_batch
from adapters.extraction.inputs import find_images
from adapters.extraction.local_engine import run_locally
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.planning import make_plan, read_headers
from adapters.extraction.read_image import Source
from adapters.extraction.records import FAILED, OK, Record
from adapters.extraction.stored import UnreadableImageError
from adapters.levels import Level

InMemory = Image.Image | NDArray[Any] | Tensor
"""An image in memory."""


@dataclass(frozen=True)
class Extraction:
    """The features of one image, or the reason why there are none.

    Attributes:
        path: path of the image; None of an image in memory.
        index: place of the image among all.
        reason: why there are no features, or None.
        original: height and width of the image, upright; None where it could not be read.
        fed: height and width of the model's input, before padding.
        levels: channels and stride of each map.
        maps: one per level, ``(C, ceil(H / stride), ceil(W / stride))`` for an input of ``H x W``, on the CPU.
        embedding: ``(D,)``, the output of timm's ``forward_head(..., pre_logits=True)``, or None.
        top5: index, name and probability of the best classes, or None.
        cls: ``(C,)``, the class token after the final norm, or None.
        registers: ``(n, C)``, the register tokens after the final norm, or None.
        note: what may surprise in the image, such as that it is dark, or None.
    """

    path: Path | None
    index: int
    reason: str | None = None
    original: tuple[int, int] | None = None
    fed: tuple[int, int] | None = None
    levels: tuple[Level, ...] = ()
    maps: tuple[Tensor, ...] = field(default=(), repr=False)
    embedding: Tensor | None = field(default=None, repr=False)
    top5: tuple[tuple[int, str | None, float], ...] | None = None
    cls: Tensor | None = field(default=None, repr=False)
    registers: Tensor | None = field(default=None, repr=False)
    note: str | None = None


def extract(
    images: str | os.PathLike[str] | InMemory | Iterable[str | os.PathLike[str] | InMemory],
    model: str | BackboneAdapter | Mapping[str, Any],
    checkpoint: str | None = None,
    options: ExtractionOptions | None = None,
    workers: int = 0,
    seed: int = 0,
) -> Iterator[Extraction]:
    """Extract features of images, as ``tools/extract_features.py`` writes them, batch by batch of like-sized images.

    >>> for found in adapters.extract("photos", "twins_svt_small", checkpoint="timm"):  # doctest: +SKIP
    ...     print(found.path, [tuple(m.shape) for m in found.maps])

    Args:
        images: an image, a folder, a glob, a text file of paths, a COCO json, or an iterable of these; or an image in
            memory, or an iterable of such, which are all held at once. In memory are Pillow's images, arrays ``(H, W)``
            or ``(H, W, C)`` and tensors ``(H, W)`` or ``(C, H, W)``, RGB where there are three bands, before any
            normalisation: uint8 of 0..255, uint16 of 0..65535, floating point of 0..1, bool. Other types and ranges
            need ``white`` or ``percentiles`` of ``options``. An array ``(B, H, W, C)`` or a tensor ``(B, C, H, W)`` is
            B images.
        model: a timm name, a built adapter (for the pyramid alone), or an adapter's config, such as
            ``dict(model_name='twins_svt_small', out_indices=(1, 2))``, with ``in_channels=6`` for images of six bands.
        checkpoint: ``'timm'`` for the hub's weights, a path or URL, or ``'random'``; None takes those of the config;
            for a name, ``'timm'``.
        options: see :class:`ExtractionOptions`.
        workers: processes that read images ahead.
        seed: seed of random weights.

    Yields:
        One :class:`Extraction` per image, in the order of the batches; ``index`` is the image's place in the input.
        A file that cannot be read has a ``reason`` and no maps.

    Raises:
        ValueError: there are no such images, or the model or an option is wrong, or an image in memory is none that the
            model takes.
    """
    options = options or ExtractionOptions()
    sources = _sources_of(images)
    extractor = build_extractor(model, options, checkpoint, seed).prepare()
    plan = make_plan(
        sources,
        read_headers(sources, extractor.reader, workers),
        extractor.preprocessing,
        extractor.pad_multiple,
        options,
    )
    for index, (size, reason) in plan.refused.items():
        yield _extraction(sources, Record(index, FAILED, reason, size), {}, ())
    for batch, loaded, features in run_locally(extractor, plan.batches, workers):
        features = features if isinstance(features, str) else features.to_cpu()
        for record, tensors in split_batch(batch, loaded, features, extractor):
            yield _extraction(sources, record, tensors, extractor.levels)


def _sources_of(images: Any) -> list[Source]:
    """List what is named, files, or what is given, images in memory.

    Raises:
        ValueError: there is nothing, or something else, or both.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        images = [images]
    elif isinstance(images, np.ndarray | Tensor):
        images = list(images) if images.ndim == 4 else [images]
    elif not isinstance(images, Iterable):
        images = [images]
    images = list(images)
    named = [isinstance(image, str | os.PathLike) for image in images]
    if all(named):
        return list(find_images(images))
    sources: list[Source] = []
    for index, image in enumerate(images):
        if not isinstance(image, Image.Image | np.ndarray | Tensor):
            raise ValueError(
                f"images[{index}] is a {type(image).__name__}: give paths, or images in memory, which are Pillow's "
                "images, numpy arrays and torch tensors; not both at once."
            )
        try:
            sources.append(image if isinstance(image, Image.Image) else from_memory(image))
        except UnreadableImageError as error:
            raise ValueError(f"images[{index}]: {error}.") from error
    return sources


def _extraction(
    sources: Sequence[Source], record: Record, tensors: Mapping[str, Tensor], levels: tuple[Level, ...]
) -> Extraction:
    """Return the features of an image.

    Raises:
        ValueError: an image in memory has none.
    """
    source = sources[record.index]
    path = source if isinstance(source, Path) else None
    if record.status != OK:
        if path is None:
            raise ValueError(f"images[{record.index}]: {record.reason}.")
        return Extraction(path, record.index, record.reason, record.original)
    return Extraction(
        path,
        record.index,
        original=record.original,
        fed=record.fed,
        levels=levels,
        maps=tuple(tensors[f"level{index}"] for index in range(len(levels))),
        embedding=tensors.get("embedding"),
        top5=record.top5,
        cls=tensors.get("cls"),
        registers=tensors.get("registers"),
        note=record.note,
    )
