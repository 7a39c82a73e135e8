"""The whole way of an export: a file appears under its name only once it has been run and compared."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.export.libraries import WRITING, require
from adapters.export.reading import open_file
from adapters.export.tracing import FREE, Freedom, trace
from adapters.export.verification import TOLERANCE, Case, Check, DifferenceError, verify
from adapters.export.writing import check_ending, write_file
from adapters.files import write_text


def write_verified(
    module: nn.Module,
    path: str | Path,
    *,
    example: Tensor,
    names: Sequence[str],
    cases: Sequence[Case],
    freedom: Freedom = FREE,
    metadata: Mapping[str, Any] | None = None,
    name: str = "the model",
    tolerance: float = TOLERANCE,
    reference: nn.Module | None = None,
) -> Check:
    """Trace a module, write it, run what was written, and only then give the file its name.

    Beside the file lies the table of the comparison, ``NAME.check.md``.

    Args:
        module: in eval mode; takes an image and returns a tensor or a tuple of tensors.
        path: ends in ``.pt2`` or ``.onnx``.
        example: an image to trace, ``(B, C, H, W)``.
        names: of the outputs, in their order.
        cases: shapes of the images to compare at.
        freedom: which axes of the image stay free.
        metadata: values for JSON, kept in the file.
        name: of the model, for messages.
        tolerance: the greatest difference allowed, as a share of an output's greatest value.
        reference: what the file is compared with; default: the module.

    Raises:
        ValueError: the module cannot be exported, or the file differs from it; no file is left then.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    path = Path(path)
    check_ending(path)
    if path.suffix == ".onnx":
        require(WRITING, "writing an ONNX file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder, since an ONNX file of a large model has another one beside it and names it.
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial = folder / path.name
        write_file(trace(module, example, freedom, name), partial, names, metadata or {}, name)
        torch._dynamo.reset()
        try:
            check = verify(open_file(partial), reference or module, cases, example.shape[1], tolerance)
        except DifferenceError as error:
            remedy = "give --size H W for a file of one size" if freedom.size else "choose the other format"
            raise ValueError(f"{path.name} is not written, since {error}; {remedy}.") from error
        for file in folder.iterdir():
            os.replace(file, path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_text(path.with_name(f"{path.name}.check.md"), f"{check}")
    return check
