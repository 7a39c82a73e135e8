#!/usr/bin/env python
"""Train with padded and with exact batches, and score both: `python tools/learn_batch_padding.py --seeds 0`."""

import sys

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/learn_batch_padding.py")
        from lab.learning.batch_padding import main

        sys.exit(main())
