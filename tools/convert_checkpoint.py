#!/usr/bin/env python
"""Start `dense-adapters convert` in a clone: `python tools/convert_checkpoint.py SRC DST --to FORMAT`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("convert")
