"""Two threads, as the machines that test have two cores; and the tests' own modules importable by name."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(2)
