#!/usr/bin/env python
"""Train a small model on the dataset of shapes and draw what it finds: `python tools/demo.py --task segmentation`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/demo.py")
        from lab.demo.command import main

        sys.exit(main())
