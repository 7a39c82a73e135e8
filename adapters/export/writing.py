"""Files of traced programs, in the format that their ending names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from adapters.export.onnx_format import write_onnx
from adapters.export.tracing import remove_calls
from adapters.kernels.free_sizes import OPERATOR as PLAIN_SIZES

#: Endings of the files, and what they are.
FORMATS = {".pt2": "torch's exported program", ".onnx": "ONNX"}
#: What a ``.pt2`` file calls the metadata among its extra files.
METADATA = "metadata.json"


def check_ending(path: Path) -> None:
    """Require a file name that says its format.

    Raises:
        ValueError: it ends otherwise.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end in {' or '.join(FORMATS)}, which says the format.")


def write_file(
    program: ExportedProgram, path: Path, names: Sequence[str], metadata: Mapping[str, Any], name: str
) -> None:
    """Write a traced program.

    Args:
        program: traced by :func:`adapters.export.tracing.trace`.
        path: ends in ``.pt2`` or ``.onnx``.
        names: of the outputs, in their order.
        metadata: values for JSON, kept in the file.
        name: of the model, for messages.

    Raises:
        ValueError: the name ends otherwise, or the format cannot express the program.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    check_ending(path)
    metadata = {**metadata, "outputs": list(names)}
    if path.suffix == ".onnx":
        write_onnx(program, path, names, metadata, name)
    else:
        remove_calls(program, {PLAIN_SIZES})
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})
