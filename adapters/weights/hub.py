"""Repositories on the Hugging Face hub: the one file of weights, or all shards, from the hub or its cache."""

from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import _hub

from adapters.weights.contents import Contents
from adapters.weights.file import first_line, read_file
from adapters.weights.folder import HUB_NAMES, read_shards, shards_of

#: The beginning of the name of a repository.
HUB = "hf-hub:"


def read_repository(name: str) -> Contents:
    """Return the contents of the weights of a repository, downloading what the hub's cache lacks.

    Args:
        name: ``'hf-hub:owner/name'``, and ``@revision`` if another than the main one is meant.

    Raises:
        ValueError: there is no such repository, it holds no weights, or the hub cannot be reached.
    """
    repository = name.removeprefix(HUB)
    try:
        path = _first_of(repository)
        if path is not None and path.name.endswith(".json"):
            for shard in shards_of(path):
                _download(repository, shard)
    except ValueError:
        raise
    except Exception as error:  # the hub's client has many exceptions of its own
        raise ValueError(
            f"weights={name!r} could not be fetched from the Hugging Face hub ({type(error).__name__}: "
            f"{first_line(error)}). Download it elsewhere and give the path of the file or the folder."
        ) from error
    if path is None:
        raise ValueError(f"weights={name!r} holds none of {', '.join(HUB_NAMES)}; download its file and give the path.")
    return read_shards(path) if path.name.endswith(".json") else read_file(path)


def _download(repository: str, filename: str) -> Path:
    name, _, revision = repository.partition("@")
    return Path(_hub.hf_hub_download(repo_id=name, filename=filename, revision=revision or None))


def _first_of(repository: str) -> Path | None:
    """Return the first file of weights that the repository has."""
    unreachable: LocalEntryNotFoundError | None = None
    for filename in HUB_NAMES:
        try:
            return _download(repository, filename)
        except LocalEntryNotFoundError as error:  # The hub cannot be reached, and this file is not in the cache.
            unreachable = unreachable or error
        except EntryNotFoundError:
            pass
    if unreachable is not None:
        raise unreachable
    return None
