#!/usr/bin/env python
"""Start `dense-adapters describe` in a clone: `python tools/describe.py NAME|PATTERN|CONFIG ...`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("describe")
