"""A process of its own for each side, which measures when it is asked to, so that no two ever run at once."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any
from unittest import mock

import torch

from lab.benchmark.measure import Bench, prepare_process
from lab.benchmark.results import Settings

#: Children are forked from a process that has imported this file and has run nothing: fresh, and there at once.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def preload(*modules: str) -> None:
    """Have the process that children are forked from import these, too, if it does not run yet."""
    _context.set_forkserver_preload([__name__, *modules])


def start_server() -> None:
    """Start the process that children are forked from, unless it runs.

    Up to Python 3.11 it does not get our ``sys.path``, and where it cannot import a module it goes on without a word:
    each child would then import everything by itself.
    """
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()


class SideError(Exception):
    """A side could not be measured; the message says why, in one line."""


class Worker:
    """A handle on the process that holds one side of a case.

    Args:
        kind: the side, a key of ``peers.PEERS``.
        case: as this side gets it.
        settings: of the run.
        bench: makes what is asked, in the process, from these three.
    """

    def __init__(
        self, kind: str, case: Any, settings: Settings, bench: Callable[[str, Any, Settings], Any] = Bench
    ) -> None:
        self._time_limit = settings.time_limit
        start_server()
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(target=serve, args=(theirs, kind, case, settings, bench), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, *arguments: Any) -> Any:
        """Call a method of the process's ``bench`` and wait for the answer.

        Raises:
            SideError: the method raised, the process died, or nothing came within the time limit.
        """
        try:
            self._connection.send((what, arguments))
            if not self._connection.poll(self._time_limit):
                self.stop()
                raise SideError(f"no answer in {self._time_limit:.0f} s")
            answer, error = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise SideError(f"the process died, exit code {self._process.exitcode}") from None
        if error is not None:
            raise SideError(error)
        return answer

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    connection: Connection, kind: str, case: Any, settings: Settings, make: Callable[[str, Any, Settings], Any]
) -> None:
    """Answer until the other end hangs up."""
    prepare_process(settings)
    bench: Any = None
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        try:
            if bench is None:
                bench = make(kind, case, settings)
            connection.send((getattr(bench, what)(*arguments), None))
        except Exception as error:
            connection.send((None, one_line(error)))


def one_line(error: Exception) -> str:
    """Say why a side failed, without the lines of a traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory: {text[:200]}"
    return f"{type(error).__name__}: {text[:300]}"
