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
from adapters.export.tracing import inputs_of
from adapters.kernels.free_sizes import OPERATOR as PLAIN_SIZES
from adapters.padding import KEEP

#: Names of the image's axes.
AXES = ("batch", "channels", "height", "width")


def write_onnx(
    program: ExportedProgram,
    path: Path,
    names: Sequence[str],
    metadata: Mapping[str, Any],
    name: str,
    inputs: Sequence[str] = ("image",),
) -> None:
    """Write a program as ONNX; weights beyond 2 GB lie beside it, in ``NAME.onnx.data``.

    Args:
        program: traced.
        path: the file.
        names: of the outputs.
        metadata: kept in the file, each value as JSON.
        name: of the model, for messages.
        inputs: their names.

    Raises:
        ValueError: ONNX has no operator for something in the program.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    require(WRITING, "writing an ONNX file")
    tensors = inputs_of(program)
    free_size = any(not isinstance(side, int) for tensor in tensors for side in tensor.shape[2:])
    environment = getattr(tensors[0].fake_mode, "shape_env", None)
    _answer_by_example(program)
    try:
        # torch traces the program once more, to split its operators into ONNX's.
        with _quiet(), environment.suppress_guards() if environment else contextlib.nullcontext():
            written: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, optimize=True, custom_translation_table=_TRANSLATIONS
            )
    except Exception as error:
        raise refusal_to_convert(error, name, free_size) from error
    _name_axes(written.model, inputs, names)
    written.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(path)


def _answer_by_example(program: Any) -> None:
    """Have questions about sizes answered by the example also in the second trace, where torch's exporter would not.

    It patches the setting around all that it does with the program, and so restores it.
    """
    decompose = program.run_decompositions
    questions: Any = torch.fx.experimental._config

    def run_decompositions(*arguments: Any, **named: Any) -> ExportedProgram:
        questions.backed_size_oblivious = False
        return decompose(*arguments, **named)

    program.run_decompositions = run_decompositions


def _identity(x: Any, axes: Any = None, multiple: Any = None) -> Any:  # noqa: ARG001, torch passes them
    """Write the operator that names sizes as what it is."""
    from onnxscript import opset18

    return opset18.Identity(x)


def _slice(x: Any, axis: int, length: Any) -> Any:
    """Write the operator that keeps the first cells of an axis."""
    from onnxscript import opset18

    ends = opset18.Reshape(opset18.Cast(length, to=7), [-1]) if not isinstance(length, int) else [length]
    return opset18.Slice(x, [0], ends, [axis])


_TRANSLATIONS: dict[Any, Any] = {PLAIN_SIZES: _identity, KEEP: _slice}


def _name_axes(model: Any, inputs: Sequence[str], names: Sequence[str]) -> None:
    """Name inputs, outputs and their free axes; forget the shapes that were worked out between them."""
    import onnx_ir

    known: dict[str, str] = {}
    for value, name in zip(model.graph.inputs, inputs, strict=True):
        value.name = name
        for place, axis in enumerate(value.shape):
            if not isinstance(axis, int):
                known.setdefault(str(axis.value), _name_axis(name, place, len(value.shape)))
                value.shape[place] = onnx_ir.SymbolicDim(known[str(axis.value)])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for output, name in zip(model.graph.outputs, names, strict=True):
        output.name = name
        for place, axis in enumerate(output.shape):
            if not isinstance(axis, int):
                fallback = _name_axis(name, place, len(output.shape))
                output.shape[place] = onnx_ir.SymbolicDim(known.get(str(axis.value), fallback))


def _name_axis(name: str, place: int, axes: int) -> str:
    """Name an axis of an input or output; of the image ``height``, of a map ``map0_height``."""
    if name == "image":
        return AXES[place]
    return f"{name}_{AXES[place] if axes == len(AXES) else place}"


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
