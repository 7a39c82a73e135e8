#!/usr/bin/env python
"""Measure what the other images of a batch change in an image's maps: `python tools/measure_batch_mates.py`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.batch_mates import main

        sys.exit(main())
