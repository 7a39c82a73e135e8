"""Exported files as callables on numpy arrays."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.export.libraries import RUNNING, require
from adapters.export.writing import METADATA, check_ending

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ExportedModel:
    """A file of a model, opened to be run.

    Attributes:
        path: of the file.
        names: of its outputs, in their order.
        metadata: what was written into it: normalisation, levels, versions.
    """

    path: Path
    names: tuple[str, ...]
    metadata: dict[str, Any]
    _run: Callable[..., list[Array]]

    def __call__(self, *inputs: Array) -> dict[str, Array]:
        """Run the model on an image ``(B, C, H, W)``, float32 and normalised; return its outputs by name.

        Args:
            inputs: the image; of the second stage of a detector, what ``metadata["inputs"]`` names.
        """
        return dict(zip(self.names, self._run(*inputs), strict=True))


def open_file(path: str | Path, threads: int | None = None) -> ExportedModel:
    """Open a file that :func:`adapters.export.writing.write_file` has written.

    Args:
        path: ends in ``.onnx``, which onnxruntime runs on the CPU, or in ``.pt2``, which torch runs.
        threads: of onnxruntime; default: its own choice. torch has ``torch.set_num_threads``.

    Raises:
        ValueError: there is no such file, or it ends otherwise.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    path = Path(path)
    check_ending(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path} (from {Path.cwd()}).")
    return _open_onnx(path, threads) if path.suffix == ".onnx" else _open_program(path)


def _open_onnx(path: Path, threads: int | None) -> ExportedModel:
    (onnxruntime,) = require(RUNNING, "running an ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    names = tuple(value.name for value in session.get_outputs())
    return ExportedModel(path, names, metadata, lambda *arrays: session.run(None, _by_name(inputs, arrays)))


def _by_name(names: list[str], arrays: tuple[Array, ...]) -> dict[str, Array]:
    return dict(zip(names, arrays, strict=True))


def _open_program(path: Path) -> ExportedModel:
    extra = {METADATA: ""}
    module: Any = torch.export.load(path, extra_files=extra).module()
    metadata = json.loads(extra[METADATA])

    def run(*arrays: Array) -> list[Array]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
        outputs = (outputs,) if torch.is_tensor(outputs) else outputs
        return [output.numpy() for output in outputs]

    return ExportedModel(path, tuple(metadata["outputs"]), metadata, run)
