"""Tracing a module into torch's exported program, with a batch, height and width that stay free."""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from adapters.export.attention import attend_over_four_axes
from adapters.export.refusals import refusal_to_trace
from adapters.kernels.redirected_attention import RedirectedAttention
from adapters.windows.exported import sharing_windows


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


FREE = Freedom()


class _Unguarded(nn.Module):
    """A module under trace: questions about sizes that its code asks are answered for the example, and forgotten."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        sides = (side for tensor in inputs for side in tensor.shape)
        side: Any = next((side for side in sides if not isinstance(side, int)), None)
        guards = nullcontext() if side is None else side.node.shape_env.suppress_guards()
        with sharing_windows(), RedirectedAttention(attend_over_four_axes), guards:
            return self.module(*inputs)


def trace(module: nn.Module, example: Tensor | Sequence[Tensor], freedom: Freedom, name: str) -> ExportedProgram:
    """Trace a module that returns a tensor or a tuple of tensors.

    Where its code asks about a free size (is this map a single cell?), the example gives the answer, which seldom
    matters at other sizes. torch would make each a condition of the program, and refuse the program for them; here the
    finished file is run at other sizes instead (:mod:`adapters.export.verification`).

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
        # The cache of shapes costs more than it saves where these are symbols: Twins-SVT takes 40% less without.
        with torch.no_grad(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            program = torch.export.export(
                _Unguarded(module),
                inputs,
                dynamic_shapes=(tuple(_free_axes(tensor, freedom) for tensor in inputs),),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:
        raise refusal_to_trace(error, name, freedom.size) from error
    return unconditional(program)


def _free_axes(tensor: Tensor, freedom: Freedom) -> dict[int, Any]:
    """Say which axes of an input are free; the length of a table always is."""
    return dict.fromkeys((0,) if tensor.ndim == 2 else freedom.axes, Dim.DYNAMIC)


def inputs_of(program: ExportedProgram) -> list[Any]:
    """Return the tensors without data that stand for a program's inputs, such as ``(B, C, H, W)``."""
    names = program.graph_signature.user_inputs
    return [node.meta["val"] for node in program.graph.nodes if node.name in names]


def unconditional(program: ExportedProgram) -> ExportedProgram:
    """Take out of a program what it demands of the sizes of its input, in place; return it."""
    program._guards_code = []
    environment = getattr(inputs_of(program)[0].fake_mode, "shape_env", None)
    for symbol in environment.backed_var_to_val if environment else ():
        program.range_constraints[symbol] = ValueRanges(1, int_oo)
    remove_calls(program, _ASSERTIONS)
    return program


def remove_calls(program: ExportedProgram, operators: Collection[Any]) -> None:
    """Take calls of operators out of a program, in place; what used a result takes the first argument."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in operators:
            if node.users:
                node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


#: Operators that only fail, or do nothing.
_ASSERTIONS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
    torch.ops.aten.sym_constrain_range.default,
}
