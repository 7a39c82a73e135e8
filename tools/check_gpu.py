#!/usr/bin/env python
"""Check the adapters on a GPU: `python tools/check_gpu.py`; `make gpu` runs it."""

import sys
from pathlib import Path

from adapters.commands.errors import one_line_errors

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the zoo and the cases of the operators

if __name__ == "__main__":
    with one_line_errors():
        from lab.gpu.command import main

        sys.exit(main())
