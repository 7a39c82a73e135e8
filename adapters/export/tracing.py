"""From a module to torch's exported program, with a batch, height and width that stay free."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from adapters.export.refusals import refusal_to_trace


@dataclass(frozen=True)
class Freedom:
    """Axes of the image, ``(B, C, H, W)``, that a file leaves open.

    Attributes:
        batch: the number of images.
        size: height and width.
    """

    batch: bool = True
    size: bool = True

    @property
    def axes(self) -> tuple[int, ...]:
        """The numbers of the free axes."""
        return (0,) * self.batch + (2, 3) * self.size

    def __str__(self) -> str:
        batch = "any batch" if self.batch else "one batch"
        return f"{batch}, {'any height and width' if self.size else 'one height and width'}"


def trace(module: nn.Module, example: Tensor | Sequence[Tensor], freedom: Freedom, name: str) -> ExportedProgram:
    """Trace a module that returns a tensor or a tuple of tensors.

    The sizes of the example leave no mark: where a program has asked about a free size (is this map a single cell?) the
    answer becomes an assertion, and assertions are taken out, since the answer seldom matters and the finished file is
    run at other sizes anyway (:mod:`adapters.export.verification`).

    Args:
        module: in eval mode.
        example: an image ``(B, C, H, W)``, two of odd sides, so that nothing is divided by chance; or several inputs,
            images and maps of that kind, and tables ``(N, D)`` whose length is always free.
        freedom: which of its axes stay free.
        name: of the model, for messages.

    Raises:
        ValueError: the module computes with free sizes in a way that cannot be traced.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    try:
        with torch.no_grad():
            program = torch.export.export(
                module,
                inputs,
                dynamic_shapes=_free_axes(module, inputs, freedom),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:
        raise refusal_to_trace(error, name, freedom.size) from error
    return without_assertions(program)


def _free_axes(module: nn.Module, inputs: Sequence[Tensor], freedom: Freedom) -> Any:
    """Say of each input which axes are free, in the shape of the arguments of ``forward``."""
    axes = [
        {0: Dim.DYNAMIC} if tensor.ndim == 2 else {place: Dim.DYNAMIC for place in freedom.axes} for tensor in inputs
    ]
    arguments = inspect.signature(module.forward).parameters.values()
    count = sum(argument.kind is not inspect.Parameter.VAR_POSITIONAL for argument in arguments)
    return tuple(axes) if len(axes) <= count else (*axes[:count], tuple(axes[count:]))


def without_assertions(program: ExportedProgram) -> ExportedProgram:
    """Take the assertions about sizes out of a program, in place; return it."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _ASSERTIONS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


_ASSERTIONS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
    torch.ops.aten.sym_constrain_range.default,
}
