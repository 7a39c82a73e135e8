"""Writing results to a disk that may be full: complete files or none, and an error that says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.files import PART, atomic_write


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing ``path`` (the disk is full, the folder is read-only) into one line with the remedy.

    Raises:
        ValueError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        problem = "no space is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"{error.strerror}"
        raise ValueError(
            f"{path} could not be written: {problem}. What is finished stays; run the same command again once there is "
            "room, and it goes on from there."
        ) from error


def write_file(path: Path, *chunks: bytes | memoryview) -> None:
    """Write a file atomically.

    Args:
        path: the file to write.
        chunks: its contents, one after the other.

    Raises:
        ValueError: the disk is full or cannot be written to.
    """
    with explain_disk_errors(path), atomic_write(path) as partial, partial.open("wb") as file:
        file.writelines(chunks)


def remove_partial_files(folder: Path) -> None:
    """Remove the half-written files of runs that were killed."""
    for partial in folder.glob(f".*{PART}"):
        partial.unlink(missing_ok=True)
