"""Reading checkpoint files from untrusted sources: nothing in them is ever executed."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from adapters.weights.contents import Contents, tidy
from adapters.weights.pickle_records import AttackError, InertPickleError
from adapters.weights.torch_file import read_stream, read_zip

StateDict = dict[str, Tensor]


def read_file(path: Path) -> Contents:
    """Return the contents of a checkpoint file, on the CPU; its kind is found from its first bytes, not its name.

    Args:
        path: a ``.safetensors`` file, one that ``torch.save`` wrote, in the present or in the old format, or another
            pickle. Objects in it are read past.

    Raises:
        ValueError: the file is empty, truncated, of another kind, holds tensors of a kind that cannot be read, or is a
            pickle that would run a program in another reader.
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
        return _read_safetensors(path)
    contents = _read_archive(path) if head.startswith(b"PK\x03\x04") else _read_pickle(path, head)
    try:
        return tidy(contents)
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error


def _read_safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Contents(load_file(str(path), device="cpu"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file ({error}); download or copy it again.") from error


def _read_archive(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated: the end of its archive is missing; download or copy it again.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                raise InertPickleError("it is a NumPy archive; convert its arrays to tensors first")
            if any(name.endswith("/constants.pkl") for name in names):
                raise InertPickleError("it is a TorchScript program; save the state_dict of what torch.jit.load gives")
            # Mapped, so that the optimiser's state beside the weights is not read at all.
            return read_zip(archive, file, path)
    except AttackError as error:
        raise _refusal(path, error) from error
    except (InertPickleError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, or torch.save did not write it "
            f"({first_line(error)}); download or copy it again, or save model.state_dict() anew."
        ) from error


def _read_pickle(path: Path, head: bytes) -> Any:
    try:
        with path.open("rb") as file:
            return read_stream(file)
    except AttackError as error:
        raise _refusal(path, error) from error
    except (InertPickleError, OSError, EOFError, RuntimeError) as error:
        if not head.startswith(b"\x80"):
            raise ValueError(
                f"{path} is no checkpoint: it begins with {head[:12]!r}. Give a .safetensors file or one of "
                "torch.save's."
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is truncated or damaged ({first_line(error)}); download or "
            "copy it again."
        ) from error


def _refusal(path: Path, error: AttackError) -> ValueError:
    return ValueError(
        f"{path} is refused, and nothing in it was run: it holds code or objects that no checkpoint needs (it calls "
        f"{error}). If you trust where it comes from, load it there and save the weights alone: "
        "torch.save(model.state_dict(), 'weights.pth'), or safetensors.torch.save_file."
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]
