"""The console of a run: what a user can act on. OpenMMLab and pycocotools print much more at each start."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast

#: Parts of the messages that are left out. Those of the log are in the log file of the run all the same.
HIDDEN = (
    "Could not import OneDL",  # datasets of a company, of which every other user has none
    "System environment:\n",
    " - Config:\n",
    "Hooks will be executed in the following order:\n",
    "Distributed training is not used, all SyncBatchNorm",
    "paramwise_options -- ",
    '"FileClient" will be deprecated in future',
    '"HardDiskBackend" is the alias of',
    "loading annotations into memory...",
    "Done (t=",
    "creating index...",
    "index created!",
    "Loading and preparing results...",
    "DONE (t=",
    "Running per image evaluation...",
    "Evaluate annotation type *",
    "Accumulating evaluation results...",
)

#: Beginnings of the warnings that are left out.
HIDDEN_WARNINGS = ("faster_coco_eval is not installed",)


class QuietStream:
    """A stream that passes on all but the messages of :data:`HIDDEN`, each of which is written at once.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line_is_hidden = False

    def write(self, text: str) -> int:
        """Write a text, or nothing where it is hidden; return its length."""
        if any(part in text for part in HIDDEN):
            self._line_is_hidden = not text.endswith("\n")
        elif text == "\n" and self._line_is_hidden:  # print writes the end of its line apart
            self._line_is_hidden = False
        else:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quiet(stream: TextIO | None = None, *, show_all: bool = False) -> Iterator[None]:
    """Print to a stream, without what no user can act on.

    Args:
        stream: default: ``sys.stdout``.
        show_all: leave nothing out.
    """
    stream = stream or sys.stdout
    shown = stream if show_all else cast(TextIO, QuietStream(stream))
    with warnings.catch_warnings(), redirect_stdout(shown):
        if not show_all:
            for message in HIDDEN_WARNINGS:
                warnings.filterwarnings("ignore", message)
        yield
