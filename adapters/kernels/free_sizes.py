"""Plain symbols for the sizes of a map, in the trace of a model whose image may have any size.

torch describes every size of a trace by a formula in the sides of the image, and the formula grows from layer to layer:
after padding, windows and three patch mergings, simplifying it takes longer than everything else. A map that
:func:`with_plain_sizes` returns has new symbols for its sides, about which nothing is known but their values in the
example. The operator behind it does nothing and is taken out of every file.
"""

from collections.abc import Sequence
from itertools import count as count_up
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic

_numbers = count_up()


def with_plain_sizes(x: Tensor, axes: Sequence[int], multiple: int = 1) -> Tensor:
    """Return a tensor of any shape itself; while a model is exported, with new symbols for sizes that have formulas.

    Args:
        x: of any shape.
        axes: of the sizes.
        multiple: a number that divides these sizes.
    """
    if not torch.compiler.is_exporting():
        return x
    axes = [axis % x.ndim for axis in axes]
    axes = [axis for axis in axes if not isinstance(x.shape[axis], int) and not _is_plain(x.shape[axis], multiple)]
    return _plain(x, axes, multiple) if axes else x


def _is_plain(size: Any, multiple: int) -> bool:
    formula = size.node.expr
    return formula.is_symbol or (formula / multiple).is_symbol


@torch.library.custom_op("adapters::plain_sizes", mutates_args=())
def _plain(x: Tensor, axes: Sequence[int], multiple: int) -> Tensor:  # noqa: ARG001, for the trace alone
    return x.clone()


@_plain.register_fake
def _(x: Tensor, axes: Sequence[int], multiple: int) -> Tensor:
    shape: list[Any] = list(x.shape)
    for axis in axes:
        environment = shape[axis].node.shape_env
        count = int(shape[axis].node.expr.xreplace(environment.backed_var_to_val)) // multiple
        # The source of a symbol is but its name here: nothing is asked about it (adapters.export.tracing).
        source = ConstantSource(f"plain_size_{next(_numbers)}")
        symbol = environment.create_symbol(count, source, DimDynamic.DYNAMIC, constraint_dim=None)
        shape[axis] = environment.create_symintnode(symbol, hint=count, source=source) * multiple
    return x.new_empty(shape)


#: The operator, for those who take it out.
OPERATOR = torch.ops.adapters.plain_sizes.default
