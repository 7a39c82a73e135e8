#!/usr/bin/env python
"""Measure which detectors and segmentors export whole: `python tools/measure_heads.py`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/measure_heads.py")
        from lab.heads.command import main

        sys.exit(main())
