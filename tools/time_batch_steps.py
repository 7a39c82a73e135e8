#!/usr/bin/env python
"""Time training steps on batches of several sizes, padded and exact: `python tools/time_batch_steps.py`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.batch_steps import main

        sys.exit(main())
