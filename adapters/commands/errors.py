"""What the command-line tools share before anything of OpenMMLab's is imported: errors in one line, and their end."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

#: Errors that tell a user what to do; others keep their traceback.
USER_ERRORS = (ValueError, FileNotFoundError, ModuleNotFoundError)

#: What torchrun, Slurm and Open MPI set in the environment of each process that they start.
LAUNCHED = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake, found by this package, into one line on stderr and exit code 1.

    An error that comes out of other code is not ours to explain and keeps its traceback.
    """
    try:
        yield
    except USER_ERRORS as error:
        if not raised_here(error):
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
    if LAUNCHED.isdisjoint(os.environ):
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def raised_here(error: BaseException) -> bool:
    """Whether an error was raised by a line of this package, not by one that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).resolve().is_relative_to(PACKAGE)
