"""Reading the state of a run from a checkpoint of mmengine's, with a fixed list of classes that it may be made of.

mmengine has such a list from torch 2.6 on, and the original mmengine none: it runs the file, or fails.
"""

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

_MULTIARRAY: Any = importlib.import_module(f"numpy.{'_core' if np.__version__ >= '2' else 'core'}.multiarray")

#: Besides tensors and containers: the log's numbers, which lie in arrays, beside the methods that sum them up.
_CLASSES = [
    HistoryBuffer,
    getattr,
    np.ndarray,
    np.dtype,
    _MULTIARRAY._reconstruct,
    _MULTIARRAY.scalar,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "efd?"),
]

#: The names by which a file asks for those, and for tensors.
_NAMES = {
    "_codecs.encode",
    "collections.OrderedDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"torch._utils.{name}" for name in ("_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2")),
}


def _method(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer and not isinstance(owner, HistoryBuffer):
        raise pickle.UnpicklingError(f"GLOBAL getattr of a {type(owner).__name__} is not on the list")
    return getattr(owner, name)


class _Unpickler(pickle.Unpickler):
    """A reader of pickles that imports nothing but what is on the list."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("builtins", "getattr"), ("__builtin__", "getattr")):
            return _method
        if f"{module}.{name}" not in _NAMES:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not on the list")
        return super().find_class(module, name)


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def load_state(path: Path | str, map_location: str | Callable[..., Any]) -> dict[str, Any]:
    """Read a checkpoint; return what it holds.

    Args:
        path: of the file.
        map_location: as ``torch.load`` takes it.

    Raises:
        pickle.UnpicklingError: it holds objects of other classes; the message has ``GLOBAL`` and the first one's name.
        RuntimeError: it is damaged.
    """
    if hasattr(torch.serialization, "safe_globals"):  # torch 2.5
        with torch.serialization.safe_globals(_CLASSES):
            return torch.load(path, map_location=map_location, weights_only=True)
    listed = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="listed")
    return torch.load(path, map_location=map_location, pickle_module=listed)
