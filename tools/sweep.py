#!/usr/bin/env python
"""Put timm models into a config of every algorithm of mmdet and mmseg: `python tools/sweep.py --models convit_tiny`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/sweep.py")
        from lab.sweep import main

        sys.exit(main())
