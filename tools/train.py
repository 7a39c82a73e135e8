#!/usr/bin/env python
"""Start `dense-adapters train` in a clone: `python tools/train.py CONFIG [--backbone NAME] ...`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("train")
