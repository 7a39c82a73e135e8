#!/usr/bin/env python
"""Check the spatial prior on every family of timm of one stride: `python tools/check_priors.py --families beit`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.priors import main

        sys.exit(main())
