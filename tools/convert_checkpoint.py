#!/usr/bin/env python
"""Convert a backbone's checkpoint to other key names: `python tools/convert_checkpoint.py SRC DST --to FORMAT`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from adapters.commands.convert import main

        sys.exit(main())
