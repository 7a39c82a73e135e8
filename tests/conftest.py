"""One thread each where two processes test, as `make test` does."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from timm.layers import weight_init

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
else:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True, scope="session")
def quick_init() -> Iterator[None]:
    """Draw timm's initial weights from a plain normal distribution.

    Truncating it takes most of a small model's building, and tests randomise what they compare anyway.
    """
    plain = mock.patch.object(weight_init, "_trunc_normal_", lambda tensor, mean, std, *_: tensor.normal_(mean, std))
    with plain:
        yield
