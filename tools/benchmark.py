#!/usr/bin/env python
"""Measure adapters beside timm and mmseg: `python tools/benchmark.py --list`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.benchmark.command import main

        sys.exit(main())
