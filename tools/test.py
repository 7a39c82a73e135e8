#!/usr/bin/env python
"""Evaluate a checkpoint on a config's test split: `python tools/test.py CONFIG CHECKPOINT [--backbone NAME] ...`."""

from adapters.commands.errors import end_launched_process, one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/test.py")
        from adapters.openmmlab.run import run_testing

        run_testing()
    end_launched_process()
