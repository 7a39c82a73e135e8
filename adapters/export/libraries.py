"""The libraries of ONNX, imported when they are needed."""

import importlib
from typing import Any

#: The libraries that writing an ONNX file takes, and the one that running it takes.
WRITING, RUNNING = ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)


def require(names: tuple[str, ...], purpose: str) -> list[Any]:
    """Import libraries; return them in their order.

    Args:
        names: of the libraries.
        purpose: what needs them, for the message.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            remedy = "install it with `pip install 'dense-adapters[export]'`, or write a .pt2 file"
            raise ModuleNotFoundError(f"{purpose} needs {name}: {remedy}.") from error
    return modules
