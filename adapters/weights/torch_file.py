"""The two formats of ``torch.save``, and plain pickles, read without torch's own reader: nothing in them is called.

The present format is a zip archive: a pickle, ``data.pkl``, and a member for each storage. The old one is four pickles
in a row, the third of which holds the object, and then the storages. Both refer to storages by persistent ids.
"""

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from adapters.weights.inert_pickle import read_pickle
from adapters.weights.pickle_records import InertPickleError
from adapters.weights.rebuild import BUILDERS, Storage, storage_type

#: The first pickle of the old format.
_MAGIC = 0x1950A86A20F9469CFC6C

#: Bytes of a member's header in a zip archive before its name, and where the lengths of name and extras stand.
_HEADER, _LENGTHS = 30, 26


def read_zip(archive: zipfile.ZipFile, file: BinaryIO, mapped: Path | None) -> Any:
    """Read an archive of ``torch.save``.

    Args:
        archive: the archive.
        file: what it was opened on.
        mapped: its path, to map the tensors into memory instead of reading them; None reads them.

    Raises:
        InertPickleError: it is damaged, or is no checkpoint.
    """
    members = {info.filename: info for info in archive.infolist()}
    folder = next(iter(members), "").split("/")[0]
    if f"{folder}/data.pkl" not in members:
        raise InertPickleError("it is an archive without data.pkl")
    if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != sys.byteorder.encode():
        raise InertPickleError("it was written on a machine of another byte order; save it anew on one like this")
    size = file.seek(0, io.SEEK_END)
    whole = None if mapped is None else torch.UntypedStorage.from_file(str(mapped), False, size)
    storages: dict[str, torch.UntypedStorage] = {}

    def load(key: str, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        info = members.get(f"{folder}/data/{key}")
        length = count * dtype.itemsize
        if info is None or info.file_size < length:
            raise InertPickleError(f"its storage {key!r} is missing or too short")
        if key not in storages:
            start = _data_start(file, info)
            is_stored = info.compress_type == zipfile.ZIP_STORED and start + info.file_size <= size
            if whole is not None and is_stored and start % dtype.itemsize == 0:
                storages[key] = whole[start : start + info.file_size]
            else:
                storages[key] = _as_storage(archive.read(info))
        return storages[key]

    return read_pickle(
        io.BytesIO(archive.read(f"{folder}/data.pkl")), BUILDERS, lambda identity: _load_persistent(identity, load)
    )


def read_stream(stream: BinaryIO) -> Any:
    """Read a file of ``torch.save``'s old format, or any other pickle, from its beginning.

    Raises:
        InertPickleError: it is damaged.
    """
    first = read_pickle(stream, {**BUILDERS, "torch.storage._load_from_bytes": _nested})
    if first != _MAGIC:
        return first
    read_pickle(stream, {})  # the version of the format
    read_pickle(stream, {})  # the machine that wrote it
    start = stream.tell()
    room = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)
    storages: dict[str, Storage] = {}

    def load(key: str, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        nonlocal room
        if key not in storages:
            room -= count * dtype.itemsize
            if room < 0:
                raise InertPickleError(f"it is too short for its storage {key!r}")
            storages[key] = Storage(torch.UntypedStorage(count * dtype.itemsize), dtype)
        return storages[key].data

    contents = read_pickle(stream, BUILDERS, lambda identity: _load_persistent(identity, load))
    keys = read_pickle(stream, {})
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise InertPickleError("it lacks storages")
    for key in keys:
        _fill(storages[key], stream)
    return contents


def _fill(storage: Storage, stream: BinaryIO) -> None:
    """Read the numbers of a storage of the old format."""
    count = int.from_bytes(stream.read(8), "little", signed=True)
    length = storage.data.nbytes()
    if count * storage.dtype.itemsize != length:
        raise InertPickleError("it is truncated, or one of its storages has another length than it says")
    data = stream.read(length)
    if len(data) != length:
        raise InertPickleError(f"it ends {length - len(data)} bytes before a tensor does")
    if length:
        torch.empty(0, dtype=torch.uint8).set_(storage.data).numpy().data[:] = data


def _load_persistent(identity: Any, load: Callable[[str, torch.dtype, int], torch.UntypedStorage]) -> Any:
    """Return the storage that a persistent id stands for; of a module, the old format stores the source beside it."""
    if not isinstance(identity, tuple) or not identity:
        raise InertPickleError(f"it refers to data by a {type(identity).__name__}")
    if identity[0] == "module" and len(identity) == 4:
        return identity[1]
    if identity[0] != "storage" or len(identity) not in (5, 6):
        raise InertPickleError("it refers to what is no storage")
    _, kind, key, _, count, *view = identity
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise InertPickleError("it refers to a storage by what is no key")
    dtype = storage_type(kind)
    data = load(key, dtype, count)
    if view and view[0] is not None:
        _, first, length = view[0]
        if not 0 <= first <= first + length <= count:
            raise InertPickleError(f"it views beyond its storage {key!r}")
        data = data[first * dtype.itemsize : (first + length) * dtype.itemsize]
    return Storage(data, dtype)


def _nested(data: Any) -> Any:
    """Read the storage that a plain pickle of a tensor holds as a file of its own."""
    if not isinstance(data, bytes):
        raise InertPickleError("it holds a storage without bytes")
    return read_stream(io.BytesIO(data))


def _data_start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return where the data of a member begin; its own header says how long that is."""
    file.seek(member.header_offset + _LENGTHS)
    name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + _HEADER + name + extra


def _as_storage(data: bytes) -> torch.UntypedStorage:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)
