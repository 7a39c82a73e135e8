#!/usr/bin/env python
"""Write the table of recipes into `configs/README.md`, counting what has changed: `python tools/list_recipes.py`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/list_recipes.py")
        from lab.recipes import main

        sys.exit(main())
