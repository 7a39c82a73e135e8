#!/usr/bin/env python
"""Start `dense-adapters export` in a clone: `python tools/export.py --backbone NAME --out FILE.onnx`."""

from adapters.commands.main import run

if __name__ == "__main__":
    run("export")
