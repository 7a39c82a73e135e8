#!/usr/bin/env python
"""Measure what extraction adds to the bare model: `python tools/benchmark_extraction.py --images 96`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.benchmark.extraction import main

        sys.exit(main())
