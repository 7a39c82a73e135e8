"""Checkpoints of ``torch.distributed.checkpoint``: folders whose ``.metadata`` say where each part of a tensor is.

No process group is needed, and nothing in the folder is called: the metadata are a pickle, and each part of a tensor is
a file of ``torch.save`` within a ``.distcp`` file.
"""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.weights.contents import Contents
from adapters.weights.inert_pickle import read_pickle
from adapters.weights.pickle_records import InertPickleError, Record
from adapters.weights.rebuild import BUILDERS
from adapters.weights.torch_file import read_stream, read_zip

#: The file that makes a folder such a checkpoint.
METADATA = ".metadata"

#: Where a part of a tensor begins, by the tensor's name and the part's offsets.
_Parts = dict[tuple[str, tuple[int, ...]], dict[str, Any]]


def read_distributed(folder: Path) -> Contents:
    """Return the tensors in such a folder, put together from their parts; those of the optimiser are not read.

    Raises:
        InertPickleError: a part is missing or damaged, or compressed.
    """
    with (folder / METADATA).open("rb") as file:
        metadata = _fields(read_pickle(file, BUILDERS))
    parts: _Parts = {}
    for index, place in metadata.get("storage_data", {}).items():
        key = _fields(index)
        parts[str(key.get("fqn")), tuple(key.get("offset") or ())] = _fields(place)
    paths = metadata.get("planner_data") or {}
    contents: dict[str, Any] = {}
    skipped = 0
    for name, described in metadata.get("state_dict_metadata", {}).items():
        fields = _fields(described)
        path = paths.get(name) or (name,)
        if "chunks" not in fields:
            continue  # no tensor
        if str(path[0]).startswith("optim"):
            skipped += 1
        elif len(path) == 1:
            contents[name] = _tensor(folder, name, fields, parts)
        else:
            inner = contents.setdefault(str(path[0]), {})
            inner[name.removeprefix(f"{path[0]}.")] = _tensor(folder, name, fields, parts)
    return Contents(contents, [f"{skipped} tensors of the optimiser were not read"] if skipped else [])


def _tensor(folder: Path, name: str, fields: dict[str, Any], parts: _Parts) -> Tensor:
    """Put a tensor together."""
    size = tuple(fields.get("size", ()))
    chunks = [_fields(chunk) for chunk in fields["chunks"]]
    whole: Tensor | None = None
    covered = 0
    for chunk in chunks:
        offsets, sizes = tuple(chunk.get("offsets", ())), tuple(chunk.get("sizes", ()))
        part = _part(folder, parts.get((name, offsets)), name)
        fits = len(offsets) == len(sizes) == len(size) and part.shape == sizes
        if not fits or any(o < 0 or o + s > end for o, s, end in zip(offsets, sizes, size, strict=True)):
            raise InertPickleError(f"a part of {name} has another place than the metadata say")
        if len(chunks) == 1 and sizes == size:
            return part
        whole = torch.empty(size, dtype=part.dtype) if whole is None else whole
        whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] = part
        covered += part.numel()
    if whole is None or covered != math.prod(size):
        raise InertPickleError(f"parts of {name} are missing")
    return whole


def _part(folder: Path, place: dict[str, Any] | None, name: str) -> Tensor:
    """Read a part of a tensor, a file of ``torch.save`` within another."""
    if place is None:
        raise InertPickleError(f"a part of {name} is missing")
    if place.get("transform_descriptors"):
        raise InertPickleError(f"{name} is compressed; save it without extensions of the writer")
    file, start, length = place.get("relative_path"), place.get("offset"), place.get("length")
    if (
        not isinstance(file, str)
        or Path(file).name != file
        or not isinstance(start, int)
        or not isinstance(length, int)
    ):
        raise InertPickleError(f"a part of {name} lies outside of the folder")
    if not (folder / file).is_file():
        raise InertPickleError(f"{file}, with a part of {name}, is missing")
    with (folder / file).open("rb") as stream:
        stream.seek(start)
        data = io.BytesIO(stream.read(length))
    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as archive:
            tensor = read_zip(archive, data, None)
    else:
        data.seek(0)
        tensor = read_stream(data)
    if not isinstance(tensor, Tensor) or tensor.numel() * tensor.itemsize > length:
        raise InertPickleError(f"a part of {name} is no tensor, or does not hold all its numbers")
    return tensor


def _fields(record: Any) -> dict[str, Any]:
    """Return the attributes of a pickled object."""
    if not isinstance(record, Record):
        raise InertPickleError("its .metadata are none that torch.distributed.checkpoint writes")
    return record.state if isinstance(record.state, dict) else {}
