"""From the name of a checkpoint to its tensors: where it lies, how it is read, and which of its parts is the backbone.

Nothing in a file is ever executed: pickles are read with ``weights_only``, which refuses code.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

#: Where training checkpoints keep the model, the weights that are meant for use first.
CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "teacher", "state_dict", "model", "module")

#: What wrappers put before a backbone's keys.
PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "encoder.", "trunk.")


def locate(source: str) -> Path:
    """The local file of a path or a URL; a URL is downloaded once into torch's hub cache, atomically.

    Raises:
        ValueError: there is no such file, or the download failed.
    """
    scheme = urlparse(source).scheme
    if scheme in ("http", "https", "ftp"):
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / Path(urlparse(source).path).name
        if not path.exists():
            try:
                torch.hub.download_url_to_file(source, str(path), progress=True)
            except OSError as error:
                raise ValueError(f"weights={source!r} could not be downloaded: {error}.") from error
        return path
    path = Path(source).expanduser()
    if path.is_dir():
        raise ValueError(f"weights={source!r} is a folder; name a checkpoint file (.pth, .pt, .bin or .safetensors) in it.")
    if not path.is_file():
        raise ValueError(
            f"weights={source!r} is no file (looked at {path.absolute()}). Give 'timm' for timm's own weights, a path or a URL."
        )
    return path


def read(path: Path) -> Mapping[str, Any]:
    """The contents of a checkpoint file, on the CPU.

    Raises:
        ValueError: the file is empty, truncated, of another kind, or a pickle with code in it.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; download or copy it again.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            contents = load_file(str(path), device="cpu")
        else:
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            head = file.read(256).lstrip().lower()
        if head.startswith((b"<!doctype", b"<html")):
            raise ValueError(f"{path} is a web page, not a checkpoint; download the file itself.") from error
        raise ValueError(
            f"{path} was refused, and nothing in it was run: it is no checkpoint, or a pickle that holds more than tensors "
            f"({str(error).splitlines()[0]}). Save its state dict alone, as .safetensors or with torch.save."
        ) from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint; is it complete? ({type(error).__name__}: {error})") from error
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path} holds a {type(contents).__name__}, not a state dict.")
    return contents


def find_state_dict(contents: Mapping[str, Any], path: Path) -> StateDict:
    """The model's tensors in a checkpoint, bare or in a container such as ``state_dict``.

    Raises:
        ValueError: the checkpoint holds no tensors where models are kept.
    """
    for container in CONTAINERS:
        inner = contents.get(container)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            return {key: value for key, value in inner.items() if isinstance(value, Tensor)}
    tensors = {key: value for key, value in contents.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors, bare or under {', '.join(CONTAINERS)}; it holds {', '.join(map(str, list(contents)[:8]))}."
        )
    return tensors


def strip_prefix(state: StateDict, wanted: frozenset[str]) -> StateDict:
    """Take off the prefix under which most of the ``wanted`` keys are found.

    A detector's checkpoint holds more than a backbone, so what lies outside the prefix is left behind.
    """
    candidates = {""}
    for key in state:
        prefix = ""
        while (more := next((p for p in PREFIXES if key[len(prefix) :].startswith(p)), None)) is not None:
            prefix += more
            candidates.add(prefix)
    hits = {
        prefix: sum(key[len(prefix) :] in wanted for key in state if key.startswith(prefix)) for prefix in candidates
    }
    best = max(sorted(candidates, key=len), key=lambda prefix: hits[prefix])
    return {key[len(best) :]: value for key, value in state.items() if key.startswith(best)}
