#!/usr/bin/env python
"""Train every family beside the native classes of mmseg and mmdet: `python tools/learning_check.py --cases twins`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/learning_check.py")
        from lab.learning.command import main

        sys.exit(main())
