#!/usr/bin/env python
"""Measure which of timm's families export, to any size and to one: `python tools/measure_exports.py`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.exports.command import main

        sys.exit(main())
