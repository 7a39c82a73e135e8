#!/usr/bin/env python
"""Start `dense-adapters list` in a clone: `python tools/list_models.py [PATTERN ...]`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("list")
