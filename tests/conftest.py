"""One thread each where two processes test, as `make test` does; no test of compiled operators where there are none."""

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from timm.layers import weight_init
from torch import Tensor
from yapf.yapflib import yapf_api

import adapters  # noqa: F401, before any test imports mmcv.ops, which may need the operators that it serves

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
    # There, sitecustomize.py has these commands begin sooner.
    folders = [str(Path(__file__).parent / "children"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
else:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True, scope="session")
def quick_init() -> Iterator[None]:
    """Draw timm's initial weights from a plain normal distribution, and none without data.

    Truncating it takes most of a small model's building, and tests randomise what they compare anyway.
    """

    def draw(tensor: Tensor, mean: float, std: float, *_: float) -> Tensor:
        return tensor if tensor.is_meta else tensor.normal_(mean, std)

    with mock.patch.object(weight_init, "_trunc_normal_", draw):
        yield


@pytest.fixture(autouse=True, scope="session")
def plain_configs() -> Iterator[None]:
    """Have mmengine print configs as they come: it lays each one out five times in a run, for a second in all."""
    with mock.patch.object(yapf_api, "FormatCode", lambda text, **_: (text, True)):
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``compiled`` where mmcv was installed without its compiled operators."""
    spec = importlib.util.find_spec("mmcv")
    folders = spec.submodule_search_locations if spec is not None else None
    if any(any(Path(folder).glob("_ext.*")) for folder in folders or []):
        return
    left_out = [item for item in items if item.get_closest_marker("compiled")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("compiled")]


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what is imported and collected, which stays to the end."""
    gc.collect()
    gc.freeze()
