#!/usr/bin/env python
"""Run a part of the tests on other versions of torch and OpenMMLab: `python tools/run_matrix.py --lines torch-2.1`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.matrix import main

        sys.exit(main())
