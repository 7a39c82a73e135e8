#!/usr/bin/env python
"""Start `dense-adapters extract` in a clone: `python tools/extract_features.py IMAGES --backbone NAME --out DIR`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("extract")
