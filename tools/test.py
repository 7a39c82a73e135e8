#!/usr/bin/env python
"""Start `dense-adapters test` in a clone: `python tools/test.py CONFIG CHECKPOINT ...`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("test")
