"""Run a measurement in a process of its own, so that a crash, a hang or a cache harms nothing else.

The benchmark's processes are another thing (:mod:`lab.benchmark.worker`): they start fresh, not as copies of this one,
since memory is measured in them, and they live on to answer several questions.
"""

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

Cells = Iterator[tuple[str, str]]

#: The cell that says why a measurement ended early; it is absent after one that came to its end.
ENDED = "ended"


def collect(measure: Callable[..., Cells], time_limit: float, *arguments: Any) -> dict[str, str]:
    """Call ``measure`` in a forked process and gather the cells that it yields until it ends, however it ends.

    Args:
        measure: yields ``(column, outcome)``; an outcome is ``'ok'`` or a reason.
        time_limit: seconds for each cell; then the process is ended.
        arguments: of ``measure``.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_run, args=(sender, measure, arguments), daemon=True)
    child.start()
    sender.close()
    cells: dict[str, str] = {}
    try:
        # Second by second, so that time in which the whole run is stopped does not count.
        while any(receiver.poll(1) for _ in range(math.ceil(time_limit))):
            message = receiver.recv()
            if message is None:
                return cells
            cells[message[0]] = message[1]
        cells[ENDED] = f"no answer within {time_limit:.0f} s"
    except EOFError:
        child.join()
        cells[ENDED] = f"the process died, exit code {child.exitcode}"
    finally:
        child.kill()
        child.join()
    return cells


def _run(sender: Connection, measure: Callable[..., Cells], arguments: tuple[Any, ...]) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    # Another thread of the parent may have been drawing a bar: nothing here would ever release the lock that it held.
    tqdm.set_lock(threading.RLock())
    started = time.monotonic()
    try:
        for cell in measure(*arguments):
            sender.send(cell)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        sender.send((ENDED, f"{type(error).__name__}: {text}{_innermost_line(error)}"))
    sender.send(("seconds", f"{time.monotonic() - started:.0f}"))
    sender.send(None)


def _innermost_line(error: BaseException) -> str:
    """Name the line that raised an error: `` (file.py:12)``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
