#!/usr/bin/env python
"""Compare parameters and FLOPs with published ones: `python tools/published_counts.py [--markdown | --json]`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/published_counts.py")
        from lab.published_page import main

        sys.exit(main())
