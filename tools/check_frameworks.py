#!/usr/bin/env python
"""Check adapters in other frameworks' heads: `python tools/check_frameworks.py --families hiera nest`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.frameworks.command import main

        sys.exit(main())
