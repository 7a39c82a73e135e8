"""Reading checkpoint files from untrusted sources: nothing in them is ever executed."""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

StateDict = dict[str, Tensor]


class Inert:
    """An object that takes any arguments and does nothing, in place of one that training code saved."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class InertDict:
    """A constructor of ordinary dictionaries, in place of another class of dictionaries."""

    def __new__(cls, *arguments: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict(next((argument for argument in arguments if isinstance(argument, dict)), ()))


#: Classes and functions that training code saves beside the weights. They are never imported, called or built.
_INERT_NAMES = (
    "argparse.Namespace",
    "builtins.dict",
    "builtins.getattr",
    "builtins.list",
    "builtins.set",
    "builtins.slice",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "mmengine.logging.history_buffer.HistoryBuffer",
)

#: Classes of dictionaries among them, which may hold the weights; they become ordinary ones.
_DICT_NAMES = (
    "collections.defaultdict",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)


def _stand_in(path: str, kind: type) -> type:
    """Return a subclass of ``kind`` under another class's name, by which torch's reader finds it."""
    module, _, name = path.rpartition(".")
    return type(name, (kind,), {"__module__": module, "__qualname__": name})


_STAND_INS: list[Any] = [
    *(_stand_in(path, Inert) for path in _INERT_NAMES),
    *(_stand_in(path, InertDict) for path in _DICT_NAMES),
]

#: Names in a pickle that ``torch.save`` writes for tensors and what belongs to them.
_TENSOR_NAMES = re.compile(
    r"torch\.(\w*Storage|Size|Tensor|device|dtype|[a-z]+\d+\w*|(_utils|_tensor|storage|nn\.parameter|serialization)\.\w+)"
)

#: Bytes of a refused file that are searched for the names that its message gives.
_SEARCH_LIMIT = 1 << 26

_REMEDY = (
    "If you trust where it comes from, load it there and save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth'), or safetensors.torch.save_file."
)


def read_file(path: Path) -> Mapping[str, Any]:
    """Return the contents of a checkpoint file, on the CPU; its kind is found from its first bytes, not its name.

    Args:
        path: a ``.safetensors`` file or one that ``torch.save`` wrote, in the present or in the old format.

    Raises:
        ValueError: the file is empty, truncated, of another kind, or a pickle that holds more than tensors, numbers,
            strings, containers and known objects of training runs.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise ValueError(f"{path} is empty; download or copy it again.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, not a checkpoint; download the file that the page links to.")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the checkpoint itself; run `git lfs pull` where it comes from."
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        contents = _read_safetensors(path)
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        contents = _read_pickle(path, head)
    elif foreign := _foreign_names(path):
        raise _refusal(path, foreign)
    else:
        raise ValueError(
            f"{path} is no checkpoint: it begins with {head[:12]!r}. Give a .safetensors file or one of torch.save's."
        )
    if not isinstance(contents, Mapping):
        raise ValueError(
            f"{path} holds a {type(contents).__name__}, not a state dict; save what model.state_dict() gives."
        )
    return contents


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path), device="cpu")
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file ({error}); download or copy it again.") from error


def _read_pickle(path: Path, head: bytes) -> Any:
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and head.startswith(b"PK"):
        raise ValueError(f"{path} is truncated: the end of its archive is missing; download or copy it again.")
    if is_zip:
        names = zipfile.ZipFile(path).namelist()
        if any(name.endswith(".npy") for name in names):
            raise ValueError(
                f"{path} is a NumPy archive, not a checkpoint of PyTorch; convert its arrays to tensors first."
            )
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError(f"{path} is a TorchScript program, not a checkpoint. {_REMEDY}")
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            # Mapped, so that the optimiser's state beside the weights is not read at all.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if foreign := _foreign_names(path):
            raise _refusal(path, foreign) from error
        raise ValueError(
            f"{path} is refused, and nothing in it was run: it is no checkpoint as torch.save writes it, or it is "
            f"damaged ({first_line(error)}). {_REMEDY}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is truncated or damaged ({type(error).__name__}: "
            f"{first_line(error)}); download or copy it again."
        ) from error


def _refusal(path: Path, foreign: list[str]) -> ValueError:
    return ValueError(
        f"{path} is refused, and nothing in it was run: it holds code or objects, not only tensors (it names "
        f"{', '.join(foreign[:8])}). {_REMEDY}"
    )


def _foreign_names(path: Path) -> list[str]:
    """List what a pickle would import besides tensors and known objects, without running any of it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    else:
        with path.open("rb") as file:
            pickles = [file.read(_SEARCH_LIMIT)]
    allowed = {*_INERT_NAMES, *_DICT_NAMES} | {"collections.OrderedDict", "_codecs.encode"}
    names = dict.fromkeys(name for data in pickles for name in _imported_names(data))
    return [name for name in names if name not in allowed and not _TENSOR_NAMES.fullmatch(name)]


def _imported_names(data: bytes) -> list[str]:
    """List the classes and functions that a sequence of pickles names."""
    names: list[str] = []
    strings: list[str] = []
    stream = io.BytesIO(data)
    try:
        while stream.tell() < len(data):  # The old format is several pickles in a row, and then raw numbers.
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", ".").replace("__builtin__.", "builtins."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, IndexError, UnicodeDecodeError):
        pass  # No further pickle, or a damaged one: the names before it are all there are.
    return names


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]
