#!/usr/bin/env python
"""Train an mmdet or mmseg config: `python tools/train.py CONFIG [--backbone NAME] [--amp] [--resume] ...`."""

from adapters.commands.errors import end_launched_process, one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/train.py")
        from adapters.openmmlab.run import run_training

        run_training()
    end_launched_process()
