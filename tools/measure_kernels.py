#!/usr/bin/env python
"""Measure each kernel of the package with and without, in one run.

python tools/measure_kernels.py
python tools/measure_kernels.py --models twins_svt_small --dtypes bf16 --repeats 3
"""

import sys

from lab.kernels import main

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
