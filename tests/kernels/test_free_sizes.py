"""Symbols for sizes in a trace; outside one, nothing."""

import re

import torch
from torch import Tensor, nn
from torch.export import Dim

from adapters.export.tracing import FREE, image_of, trace
from adapters.kernels.free_sizes import OPERATOR, with_plain_sizes


class Padded(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        height = (image.shape[2] + 7) // 8 * 8
        tall = torch.nn.functional.pad(image, (0, 0, 0, height - image.shape[2]))
        return with_plain_sizes(tall, (2, 3), 8)[:, :, ::4]


def test_a_tensor_is_itself() -> None:
    x = torch.zeros(1, 3, 8, 9)
    assert with_plain_sizes(x, (2, 3)) is x


def test_a_size_with_a_formula_gets_a_symbol() -> None:
    program = trace(Padded(), torch.randn(2, 3, 13, 21), FREE, "padded")
    (node,) = (node for node in program.graph.nodes if node.target is OPERATOR)
    height, width = node.meta["val"].shape[2:]
    assert re.fullmatch(r"8\*s\d+", str(height))
    assert str(width) == str(image_of(program).shape[3])  # it is the image's own, and has no formula


def test_sizes_that_are_fixed_stay() -> None:
    program = torch.export.export(Padded(), (torch.randn(2, 3, 13, 21),), dynamic_shapes=({0: Dim.DYNAMIC},))
    assert not [node for node in program.graph.nodes if node.target is OPERATOR]
