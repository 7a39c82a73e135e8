#!/usr/bin/env python
"""Describe timm models and configs: `python tools/describe.py NAME|PATTERN|CONFIG ... [--size H W] [--markdown]`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from adapters.commands.describe import describe

        sys.exit(describe())
