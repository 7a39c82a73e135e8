#!/usr/bin/env python
"""Train a detector of small objects with each pyramid: `python tools/learn_small_objects.py --seeds 0`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/learn_small_objects.py")
        from lab.learning.small_objects import main

        sys.exit(main())
