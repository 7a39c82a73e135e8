"""Fetch a checkpoint by its name, a path, a URL or a repository on the Hugging Face hub, and read it."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import torch
from filelock import FileLock
from tqdm import tqdm

from adapters.files import atomic_write
from adapters.weights.contents import Contents
from adapters.weights.file import read_file
from adapters.weights.folder import read_folder
from adapters.weights.hub import HUB, read_repository
from adapters.weights.source import SUPPORTED

#: Bytes read from a connection at a time.
_CHUNK = 1 << 20

#: What timm puts before the path of a folder with a model.
LOCAL_FOLDER = "local-dir:"


def fetch_contents(name: str) -> Contents:
    """Return what the checkpoint behind a path, a URL or a hub name holds, downloading it where needed.

    Raises:
        ValueError: it cannot be found, fetched or read.
    """
    if name.startswith(HUB):
        with one_process_at_a_time(name.replace("/", "-").replace(":", "-")):
            return read_repository(name)
    path = locate(name.removeprefix(LOCAL_FOLDER))
    return read_folder(path) if path.is_dir() else read_file(path)


def locate(name: str) -> Path:
    """Return the local file or folder of a path or a URL; a URL is downloaded once, also where several processes ask.

    Raises:
        ValueError: there is no such file or folder, or the download failed.
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
    if not path.exists():
        raise ValueError(f"weights={name!r} is no file (looked at {path.absolute()}); give {SUPPORTED}.")
    return path


def cache_folder() -> Path:
    """Return the folder of downloads: below the cache of ``torch.hub``, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "adapters"


@contextmanager
def one_process_at_a_time(name: str) -> Iterator[None]:
    """Let one process of this machine at a time through, so that several ranks do not download the same file.

    Where the cache may not be written to there is nothing to download either, and all go through.
    """
    folder = cache_folder()
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(str(folder / f"{name}.lock")))
        yield


def download(url: str) -> Path:
    """Download a URL, or find what an earlier call has downloaded; the name tells apart two URLs that end alike.

    Raises:
        ValueError: the server refuses, the connection breaks, or a web page comes instead of a file.
    """
    basename = Path(unquote(urlparse(url).path)).name or "checkpoint"
    path = cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{basename}"
    if path.exists():
        return path
    with one_process_at_a_time(path.name):
        if not path.exists():
            _download_to(path, url)
    return path


def _download_to(path: Path, url: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "dense-adapters"})
    try:
        with (
            atomic_write(path) as partial,
            partial.open("wb") as file,
            urllib.request.urlopen(request, timeout=60) as response,
        ):
            expected = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=expected or None, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while chunk := response.read(_CHUNK):
                    if not file.tell() and chunk.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
                        raise ValueError(
                            f"weights={url!r} leads to a web page, not to a checkpoint; give the file's own URL."
                        )
                    file.write(chunk)
                    bar.update(len(chunk))
            if expected and file.tell() != expected:
                raise ValueError(
                    f"weights={url!r}: the connection broke after {file.tell()} of {expected} bytes; try again."
                )
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise ValueError(
            f"weights={url!r} could not be downloaded ({type(error).__name__}: {error}). Download it elsewhere and "
            "give the path of the file."
        ) from error
