"""From the name of a checkpoint to a local file: paths, URLs and their downloads."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import torch
from filelock import FileLock
from timm.models import load_state_dict_from_hf
from tqdm import tqdm

from adapters.weights.file import read

#: Bytes read from a connection at a time.
CHUNK = 1 << 20

#: What the name of a checkpoint may be.
SUPPORTED = "'timm', a path, an http(s):// or file:// URL, or 'hf-hub:owner/name'"


#: Before the name of a repository on the Hugging Face hub.
HUB = "hf-hub:"


@dataclass(frozen=True)
class Source:
    """Which weights to load.

    Attributes:
        name: ``'timm'``, a path, a URL, or ``'hf-hub:owner/name'``.
        prefix: below which names the backbone lies; found by itself where only one place fits.
        img_size: ``(H, W)`` for which the checkpoint's position embeddings are, where their grid is not square.
    """

    name: str
    prefix: str | None = None
    img_size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name


def contents(name: str) -> Mapping[str, Any]:
    """What the checkpoint of a path, a URL or a hub name holds.

    Raises:
        ValueError: it cannot be found, fetched or read.
    """
    if not name.startswith(HUB):
        return read(locate(name))
    try:
        with only_one(name.replace("/", "-").replace(":", "-")):
            return load_state_dict_from_hf(name.removeprefix(HUB))
    except Exception as error:  # the hub's client has many exceptions of its own
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"weights={name!r} could not be fetched from the Hugging Face hub ({type(error).__name__}: {reason}). "
            "Download it elsewhere and give the path of the file."
        ) from error


def locate(name: str) -> Path:
    """The local file of a path or a URL; a URL is downloaded once, also where several processes ask for it.

    Raises:
        ValueError: there is no such file, or the download failed.
    """
    url = urlparse(name)
    if url.scheme in ("http", "https"):
        return download(name)
    if url.scheme == "file":
        path = Path(url2pathname(url.path))
    elif "://" in name:
        raise ValueError(f"weights={name!r}: {url.scheme}:// is not supported; give {SUPPORTED}.")
    else:
        path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt", ".bin", ".safetensors"))
        raise ValueError(
            f"weights={name!r} is a folder; name the checkpoint in it: {', '.join(files[:8]) or 'it holds none'}."
        )
    if not path.is_file():
        raise ValueError(f"weights={name!r} is no file (looked at {path.absolute()}); give {SUPPORTED}.")
    return path


def cache_folder() -> Path:
    """Where downloads lie: below the cache of ``torch.hub``, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "adapters"


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Let one process of this machine at a time through, so that several ranks do not download the same file.

    Where the cache may not be written to there is nothing to download either, and all go through.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder / f"{name}.lock"))
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def download(url: str) -> Path:
    """Download a URL, or find what an earlier call has downloaded.

    The file gets its name only when it is whole, and the name tells apart two URLs that end alike.

    Raises:
        ValueError: the server refuses, the connection breaks, or what comes is a web page.
    """
    basename = Path(unquote(urlparse(url).path)).name or "checkpoint"
    path = cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{basename}"
    if path.exists():
        return path
    with only_one(path.name):
        if not path.exists():
            _fetch(url, path)
    return path


def _fetch(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "dense-adapters"})
        with partial.open("wb") as file, urllib.request.urlopen(request, timeout=60) as response:
            expected = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=expected or None, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while chunk := response.read(CHUNK):
                    if not file.tell() and chunk.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
                        raise ValueError(
                            f"weights={url!r} leads to a web page, not to a checkpoint; give the file's own URL."
                        )
                    file.write(chunk)
                    bar.update(len(chunk))
            size = file.tell()
        if expected and size != expected:
            raise ValueError(f"weights={url!r}: the connection broke after {size} of {expected} bytes; try again.")
        os.replace(partial, path)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise ValueError(
            f"weights={url!r} could not be downloaded ({type(error).__name__}: {error}). Download it elsewhere and "
            "give the path of the file."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
