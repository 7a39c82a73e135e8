#!/usr/bin/env python
"""Time ONNX files in onnxruntime beside torch: `python tools/time_exports.py`."""

import sys

from adapters.commands.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from lab.exports.timing import main

        sys.exit(main())
