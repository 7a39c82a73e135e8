#!/usr/bin/env python
"""Start `dense-adapters layer-decay` in a clone: `python tools/layer_decay.py CONFIG ...`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("layer-decay")
