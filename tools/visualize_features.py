#!/usr/bin/env python
"""Start `dense-adapters visualize` in a clone: `python tools/visualize_features.py IMAGES --backbone A B --out DIR`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("visualize")
