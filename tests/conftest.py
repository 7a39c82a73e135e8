"""One thread each where two processes test, as `make test` does; no test of compiled operators where there are none."""

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a process that tests; the one that hands out tests to others imports nothing and starts them sooner."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if config.getoption("numprocesses", None) and not is_worker:
        return

    import torch

    import adapters  # noqa: F401, before any test imports mmcv.ops, which may need the operators that it serves

    torch.set_num_threads(1 if is_worker else 2)
    if is_worker:
        os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
        # There, sitecustomize.py has these commands begin sooner.
        folders = [str(Path(__file__).parent / "children"), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))


@pytest.fixture(autouse=True, scope="session")
def quick_init() -> Iterator[None]:
    """Draw timm's initial weights from a plain normal distribution, and none without data.

    Truncating it takes most of a small model's building, and tests randomise what they compare anyway.
    """
    from timm.layers import weight_init

    def draw(tensor: Any, mean: float, std: float, *_: float) -> Any:
        return tensor if tensor.is_meta else tensor.normal_(mean, std)

    with mock.patch.object(weight_init, "_trunc_normal_", draw):
        yield


@pytest.fixture(autouse=True, scope="session")
def plain_configs() -> Iterator[None]:
    """Have mmengine print configs as they come: it lays each one out five times in a run, for a second in all."""
    from yapf.yapflib import yapf_api

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
    """Have the garbage collector pass over what is imported and collected, which stays to the end, and come less often.

    At Python's threshold of 700 new objects, passing over models of thousands takes a twentieth of the tests' time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 10, 10)
