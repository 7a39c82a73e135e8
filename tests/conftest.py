"""Two threads, as the machines that test have two cores; and the tests' own modules importable by name."""

import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from timm.layers import weight_init

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(2)


@pytest.fixture(autouse=True, scope="session")
def quick_init() -> Iterator[None]:
    """Draw timm's initial weights from a plain normal distribution.

    Truncating it takes most of a small model's building, and tests randomise what they compare anyway.
    """
    plain = mock.patch.object(weight_init, "_trunc_normal_", lambda tensor, mean, std, *_: tensor.normal_(mean, std))
    with plain:
        yield
