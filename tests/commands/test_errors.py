"""Ends of a process: errors in one line, and a launched process without an abort."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.commands import errors
from adapters.commands.errors import LAUNCHERS, one_line_errors

#: A process that a destructor of C++ would end with SIGABRT. It imports the module alone, which takes no time.
CODE = """
import atexit, ctypes
from errors import end_launched_process
libc = ctypes.CDLL(None)
getattr(libc, "__cxa_atexit")(libc.abort, None, None)
atexit.register(print, "python's own end")
print("done")
end_launched_process()
"""


@pytest.mark.parametrize("launcher", [None, max(LAUNCHERS)])
def test_a_launched_process_ends_before_the_destructors_of_its_libraries(launcher: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHERS}
    environment |= {launcher: "0"} if launcher else {}
    environment["PYTHONPATH"] = str(Path(errors.__file__).parent)
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert result.stdout.split("\n") == ["done", "python's own end", ""]
    assert result.returncode == (0 if launcher else -signal.SIGABRT)


def raised_in(module: str, error: Exception) -> None:
    """Raise an error in a module of that name."""
    exec("raise error", {"__name__": module, "error": error})


@pytest.mark.parametrize("module", ["adapters.weights.load", "lab.sweep", "__main__"])
def test_an_error_of_ours_is_one_line(module: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raised_in(module, ValueError("size=0 must be at least 1."))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: size=0 must be at least 1.\n"


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="theirs"), one_line_errors():
        raised_in("labels.reader", ValueError("theirs"))
    with pytest.raises(KeyError), one_line_errors():
        raised_in("adapters.base", KeyError("a bug"))
