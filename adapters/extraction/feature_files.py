"""Feature files: whole under their name or not there, and the same bytes for the same features."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.extraction.batches import LoadedBatch
from adapters.extraction.extractor import BatchFeatures, Extractor
from adapters.extraction.planning import Batch, Entry
from adapters.extraction.records import FAILED, OK, Record, feature_file_name

PART = ".part"

#: safetensors' names of the types that features have.
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
FEATURES = "features"


@contextmanager
def told_in_one_line(path: Path) -> Iterator[None]:
    """Turn a disk that is full or not writable into an error that says what to do.

    Raises:
        ValueError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        what = "no space is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"{error.strerror}"
        raise ValueError(
            f"{path} could not be written: {what}. What is finished stays; run the same command again once there is "
            "room, and it goes on from there."
        ) from error


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write under a temporary name, then rename.

    Args:
        path: of the file.
        parts: what it holds, one after the other.

    Raises:
        ValueError: the disk is full or cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with told_in_one_line(path):
        try:
            with partial.open("wb") as file:
                file.writelines(parts)
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def safetensors_parts(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """A safetensors file in parts: its header, then every tensor's own memory.

    safetensors' ``save`` copies all tensors twice while it holds Python's lock, for which the next batch would wait.
    The format is a json of types, shapes and places, padded to 8 bytes, after its length; larger types come first, so
    that all are aligned.

    Args:
        tensors: contiguous, on the CPU.
    """
    header: dict[str, Any] = {}
    parts: list[bytes | memoryview] = []
    start = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor  # which numpy has not
        parts.append(raw.numpy().data.cast("B"))
        end = start + len(parts[-1])
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]


def remove_partials(folder: Path) -> None:
    """Remove what runs that were killed have left half-written."""
    for partial in folder.glob(f".*{PART}"):
        partial.unlink(missing_ok=True)


def to_records(
    batch: Batch, loaded: LoadedBatch, features: BatchFeatures | str, extractor: Extractor
) -> Iterator[tuple[Record, dict[str, Tensor]]]:
    """One record, and the tensors if there are any, for each image of a batch.

    Args:
        batch: as planned.
        loaded: says which images could not be read.
        features: of the batch on the CPU, or the reason why there are none.
        extractor: that made them.
    """
    for place, entry in enumerate(batch.entries):
        problem = features if isinstance(features, str) else None
        problem = loaded.problems[place] or problem
        if problem is not None or isinstance(features, str):
            yield Record(entry.index, FAILED, problem, entry.original), {}
            continue
        tensors = features.of_image(place, entry.fed, extractor.levels)
        odd = [f"level{level}" for level, finite in enumerate(features.finite[place].tolist()) if not finite]
        odd += [key for key in features.vectors if not tensors[key].isfinite().all()]
        if odd:
            yield Record(entry.index, FAILED, f"NaN or infinity in {odd[0]}", entry.original, entry.fed), {}
        else:
            yield _record(entry, tensors, extractor), tensors


def _record(entry: Entry, tensors: dict[str, Tensor], extractor: Extractor) -> Record:
    maps = tensors.get("level0", tensors.get("embedding"))
    top5 = None
    if "top5_index" in tensors:
        pairs = zip(tensors["top5_index"].tolist(), tensors["top5_probability"].tolist(), strict=True)
        names = extractor.classes
        top5 = tuple((index, None if names is None else names[index], chance) for index, chance in pairs)
    dtype = None if maps is None else str(maps.dtype).removeprefix("torch.")
    return Record(entry.index, OK, None, entry.original, entry.fed, dtype=dtype, top5=top5)


def write_batch(
    out: Path, batch: Batch, loaded: LoadedBatch, features: BatchFeatures | str, extractor: Extractor, wanted: set[int]
) -> Iterator[Record]:
    """Write the feature files of a batch, and give a record of each once it is there.

    Args:
        out: folder of the run.
        batch, loaded, features, extractor: as for :func:`to_records`.
        wanted: indices of the images that are not finished yet; the others are left as they are.

    Raises:
        ValueError: the disk is full or cannot be written to.
    """
    for (record, tensors), entry in zip(to_records(batch, loaded, features, extractor), batch.entries, strict=True):
        if record.index not in wanted:
            continue
        if record.status == OK:
            parts = safetensors_parts(tensors)
            digest = hashlib.sha256()
            for part in parts:
                digest.update(part)
            write_whole(out / FEATURES / feature_file_name(entry.path), *parts)
            size = sum(len(part) for part in parts)
            record = replace(record, checksum=digest.hexdigest(), bytes=size)
        yield record
