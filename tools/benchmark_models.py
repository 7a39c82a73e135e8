#!/usr/bin/env python
"""Measure whole detectors and segmentors: `python tools/benchmark_models.py --list`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/benchmark_models.py")
        from lab.whole_models.command import main

        sys.exit(main())
