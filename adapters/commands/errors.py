"""Ends of a process that runs a command: a user's mistake in one line, and a launched process without an abort."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Errors that tell a user what to do; others keep their traceback.
USER_ERRORS = (ValueError, FileNotFoundError, ModuleNotFoundError)

#: Where the errors come from that are written for users: the library, the maintainers' tools, and scripts.
OUR_CODE = {"adapters", "lab", "__main__"}

#: Variables that torchrun, Slurm and Open MPI set in the environment of each process that they start.
LAUNCHERS = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake, found by our own code, into one line on stderr and exit code 1.

    An error that comes out of other code is not ours to explain and keeps its traceback.
    """
    try:
        yield
    except USER_ERRORS as error:
        if not _is_raised_by_us(error):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def end_launched_process() -> None:
    """End a process that a launcher has started and whose work is done; do nothing in others.

    A few processes in a hundred that have trained through gloo abort after Python has ended, in a destructor of C++
    (``terminate called without an active exception``), and the launcher takes a finished run for a failed one. So the
    process ends before those, and after everything that Python does at its end.
    """
    if LAUNCHERS.isdisjoint(os.environ):
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _is_raised_by_us(error: BaseException) -> bool:
    """Return whether a line of our own code raised an error, not a line that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in OUR_CODE
