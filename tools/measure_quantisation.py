#!/usr/bin/env python
"""Measure quantised adapters on the CPU: their difference from fp32, time and size, in one run.

python tools/measure_quantisation.py
python tools/measure_quantisation.py --models twins_svt_small --repeats 3
"""

import sys

from lab.quantisation import main

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
