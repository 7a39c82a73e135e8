"""``adapters.extract``: features of images in memory, without a folder of results."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from adapters.base import BackboneAdapter
from adapters.extraction.building import build_extractor
from adapters.extraction.feature_files import split_batch
from adapters.extraction.inputs import find_images
from adapters.extraction.local_engine import run_locally
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.planning import make_plan, read_headers
from adapters.extraction.records import OK, Record
from adapters.levels import Level


@dataclass(frozen=True)
class Extraction:
    """The features of one image, or the reason why there are none.

    Attributes:
        path: path of the image.
        index: place of the image among all.
        reason: why there are no features, or None.
        original: height and width of the image, upright; None where it could not be read.
        fed: height and width of the model's input, before padding.
        levels: channels and stride of each map.
        maps: one per level, ``(C, ceil(H / stride), ceil(W / stride))`` for an input of ``H x W``, on the CPU.
        embedding: ``(D,)``, the output of timm's ``forward_head(..., pre_logits=True)``, or None.
        top5: index, name and probability of the best classes, or None.
    """

    path: Path
    index: int
    reason: str | None = None
    original: tuple[int, int] | None = None
    fed: tuple[int, int] | None = None
    levels: tuple[Level, ...] = ()
    maps: tuple[Tensor, ...] = field(default=(), repr=False)
    embedding: Tensor | None = field(default=None, repr=False)
    top5: tuple[tuple[int, str | None, float], ...] | None = None


def extract(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
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
        images: an image, a folder, a glob, a text file of paths, a COCO json, or a sequence of these.
        model: a timm name, a built adapter (for the pyramid alone), or an adapter's config, such as
            ``dict(model_name='twins_svt_small', out_indices=(1, 2))``.
        checkpoint: ``'timm'`` for the hub's weights, a path or URL, or ``'random'``; None takes those of the config;
            for a name, ``'timm'``.
        options: see :class:`ExtractionOptions`.
        workers: processes that read images ahead.
        seed: seed of random weights.

    Yields:
        One :class:`Extraction` per image, in the order of the batches; ``index`` is the image's place in the input.
        An image that cannot be read has a ``reason`` and no maps.

    Raises:
        ValueError: there are no such images, or the model or an option is wrong.
    """
    options = options or ExtractionOptions()
    sources = [images] if isinstance(images, str | os.PathLike) else list(images)
    paths = find_images(sources)
    extractor = build_extractor(model, options, checkpoint, seed).prepare()
    headers = read_headers(paths, options.max_decoded, workers)
    plan = make_plan(paths, headers, extractor.preprocessing, extractor.pad_multiple, options)
    for index, (size, reason) in plan.refused.items():
        yield Extraction(paths[index], index, reason, size)
    for batch, loaded, features in run_locally(extractor, plan.batches, workers):
        features = features if isinstance(features, str) else features.to_cpu()
        for record, tensors in split_batch(batch, loaded, features, extractor):
            yield _extraction(paths[record.index], record, tensors, extractor.levels)


def _extraction(path: Path, record: Record, tensors: dict[str, Tensor], levels: tuple[Level, ...]) -> Extraction:
    if record.status != OK:
        return Extraction(path, record.index, record.reason, record.original)
    maps = tuple(tensors[f"level{index}"] for index in range(len(levels)))
    embedding = tensors.get("embedding")
    return Extraction(path, record.index, None, record.original, record.fed, levels, maps, embedding, record.top5)
