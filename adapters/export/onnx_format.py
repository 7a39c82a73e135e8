"""ONNX files of traced programs, with names for the axes that are free."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from adapters.export.libraries import WRITING, require
from adapters.export.refusals import refusal_to_convert

#: Names of the image's axes.
AXES = ("batch", "channels", "height", "width")


def write_onnx(
    program: ExportedProgram, path: Path, names: Sequence[str], metadata: Mapping[str, Any], name: str
) -> None:
    """Write a program as ONNX; weights beyond 2 GB lie beside it, in ``NAME.onnx.data``.

    Args:
        program: traced.
        path: the file.
        names: of the outputs.
        metadata: kept in the file, each value as JSON.
        name: of the model, for messages.

    Raises:
        ValueError: ONNX has no operator for something in the program.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    require(WRITING, "writing an ONNX file")
    free_size = any(not isinstance(side, int) for side in _image_node(program).meta["val"].shape[-2:])
    try:
        with _quiet():
            written: Any = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
    except Exception as error:
        raise refusal_to_convert(error, name, free_size) from error
    _name_axes(written.model, names)
    written.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(path)


def _image_node(program: ExportedProgram) -> Any:
    (name,) = program.graph_signature.user_inputs
    return next(node for node in program.graph.nodes if node.name == name)


def _name_axes(model: Any, names: Sequence[str]) -> None:
    """Name input, outputs and their free axes; forget the shapes that were worked out between them."""
    import onnx_ir

    (image,) = model.graph.inputs
    image.name = "image"
    known = {}
    for place, axis in enumerate(image.shape):
        if not isinstance(axis, int):
            known[str(axis.value)] = AXES[place]
            image.shape[place] = onnx_ir.SymbolicDim(AXES[place])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for output, name in zip(model.graph.outputs, names, strict=True):
        output.name = name
        for place, axis in enumerate(output.shape):
            if not isinstance(axis, int):
                fallback = f"{name}_{AXES[place] if len(output.shape) == len(AXES) else place}"
                output.shape[place] = onnx_ir.SymbolicDim(known.get(str(axis.value), fallback))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter prints, logs and warns about its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
