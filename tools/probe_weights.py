#!/usr/bin/env python
"""Probe pretrained features beside random ones: `python tools/probe_weights.py`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.real_weights.command import main

        sys.exit(main())
