#!/usr/bin/env python
"""Measure deformable attention beside mmcv's in pure torch: `python tools/measure_deformable.py`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/measure_deformable.py")
        from lab.deformable import main

        sys.exit(main())
