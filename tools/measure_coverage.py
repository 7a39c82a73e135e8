#!/usr/bin/env python
"""Measure which of timm's families work as backbones: `python tools/measure_coverage.py --families hiera nest`.

The name is not coverage.py since Python looks for modules beside a script first: numba, which imports a package of
that name, would get the script.
"""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.coverage.command import main

        sys.exit(main())
