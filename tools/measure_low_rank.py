#!/usr/bin/env python
"""Measure low-rank tuning: `python tools/measure_low_rank.py families`, `memory` or `transfer`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.low_rank.command import main

        sys.exit(main())
