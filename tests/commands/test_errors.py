"""How the tools end."""

import os
import signal
import subprocess
import sys

import pytest

from adapters.commands.errors import LAUNCHED

#: A process that a destructor of C++ would end with SIGABRT.
CODE = """
import atexit, ctypes
from adapters.commands.errors import end_launched_process
libc = ctypes.CDLL(None)
getattr(libc, "__cxa_atexit")(libc.abort, None, None)
atexit.register(print, "python's own end")
print("done")
end_launched_process()
"""


@pytest.mark.parametrize("launcher", [None, *sorted(LAUNCHED)])
def test_a_launched_process_ends_before_the_destructors_of_its_libraries(launcher: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
    environment |= {launcher: "0"} if launcher else {}
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert result.stdout.split("\n") == ["done", "python's own end", ""]
    assert result.returncode == (0 if launcher else -signal.SIGABRT)
