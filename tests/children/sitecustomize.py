"""What the processes that tests start do first: they go without transformers.

mmengine imports it for one optimiser, and with it peft and torchao, which takes longer than all else that is imported.
A process whose subject it is empties PYTHONPATH, which leads here.
"""

import sys

# Python then takes it for a module that is not installed.
sys.modules["transformers"] = None
