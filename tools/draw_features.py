#!/usr/bin/env python
"""Draw the levels of a pretrained model: `python tools/draw_features.py --out docs/features.png`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.real_weights.picture import main

        sys.exit(main())
