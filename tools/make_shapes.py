#!/usr/bin/env python
"""Draw the dataset of shapes: `python tools/make_shapes.py --out data/shapes`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.shapes.command import main

        sys.exit(main())
