"""Feature files, one safetensors file per image: the same features give the same bytes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.extraction.batches import LoadedBatch
from adapters.extraction.disk import write_file
from adapters.extraction.extractor import BatchFeatures, Extractor
from adapters.extraction.planning import Batch, Entry
from adapters.extraction.records import FAILED, OK, Record, feature_file_name

FEATURES = "features"

#: Vectors whose dtype is that of a file without maps.
VECTORS = ("embedding", "cls", "registers")

#: safetensors' names of the dtypes that features have.
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Lay out a safetensors file: its header, then every tensor's own memory.

    safetensors' ``save`` copies all tensors twice while it holds Python's lock, for which the next batch would wait.
    The format is the length of the header, the header (JSON of dtypes, shapes and offsets, padded to 8 bytes), and the
    tensors; larger dtypes come first, so that all are aligned.

    Args:
        tensors: tensors ``(...)`` by name, contiguous, on the CPU.
    """
    header: dict[str, Any] = {}
    chunks: list[bytes | memoryview] = []
    start = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor  # numpy has no bfloat16
        chunks.append(raw.numpy().data.cast("B"))
        end = start + len(chunks[-1])
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *chunks]


def split_batch(
    batch: Batch, loaded: LoadedBatch, features: BatchFeatures | str, extractor: Extractor
) -> Iterator[tuple[Record, dict[str, Tensor]]]:
    """Yield a record for each image of a batch, with its tensors, or with none if the image failed.

    Args:
        batch: the batch as planned.
        loaded: the batch as loaded, which knows the images that could not be read.
        features: the batch's features on the CPU, or the reason why there are none.
        extractor: the model that made them.

    Yields:
        The record, and ``level0`` .. ``(C, h, w)``, ``cls`` ``(C,)``, ``registers`` ``(n, C)``, ``embedding``
        ``(D,)``, ``top5_index`` and ``top5_probability`` ``(5,)``, as far as asked for.
    """
    for position, entry in enumerate(batch.entries):
        problem = loaded.problems[position]
        if problem is not None or isinstance(features, str):
            yield Record(entry.index, FAILED, problem or str(features), entry.original), {}
            continue
        tensors = features.of_image(position, entry.fed, extractor.levels)
        bad = [f"level{level}" for level, finite in enumerate(features.finite[position].tolist()) if not finite]
        bad += [key for key in features.vectors if not tensors[key].isfinite().all()]
        if bad:
            yield Record(entry.index, FAILED, f"NaN or infinity in {bad[0]}", entry.original, entry.fed), {}
        else:
            yield _record(entry, tensors, extractor, loaded.notes[position]), tensors


def _record(entry: Entry, tensors: dict[str, Tensor], extractor: Extractor, note: str | None) -> Record:
    top5 = None
    if "top5_index" in tensors:
        pairs = zip(tensors["top5_index"].tolist(), tensors["top5_probability"].tolist(), strict=True)
        names = extractor.classes
        top5 = tuple((index, None if names is None else names[index], chance) for index, chance in pairs)
    first = next((tensors[key] for key in ("level0", *VECTORS) if key in tensors), None)
    dtype = None if first is None else str(first.dtype).removeprefix("torch.")
    return Record(entry.index, OK, None, entry.original, entry.fed, dtype=dtype, top5=top5, note=note)


def write_batch(
    out: Path, batch: Batch, loaded: LoadedBatch, features: BatchFeatures | str, extractor: Extractor, missing: set[int]
) -> Iterator[Record]:
    """Write the feature files of a batch, and yield the record of each image once its file is there.

    Args:
        out: the run's folder.
        batch: as for :func:`split_batch`.
        loaded: as for :func:`split_batch`.
        features: as for :func:`split_batch`.
        extractor: as for :func:`split_batch`.
        missing: indices of the images that are not finished yet; the files of the others are not touched.

    Raises:
        ValueError: the disk is full or cannot be written to.
    """
    for (record, tensors), entry in zip(split_batch(batch, loaded, features, extractor), batch.entries, strict=True):
        if record.index not in missing:
            continue
        if record.status == OK:
            chunks = safetensors_chunks(tensors)
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
            assert isinstance(entry.source, Path), "a run is one of files"
            write_file(out / FEATURES / feature_file_name(entry.source), *chunks)
            record = replace(record, checksum=digest.hexdigest(), bytes=sum(len(chunk) for chunk in chunks))
        yield record
