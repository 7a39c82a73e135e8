"""Deformable attention: mmcv's numbers and gradients, the definition written out, and a form that exports."""

import math
from unittest import mock

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor, nn

from adapters.kernels import deformable_attention as module
from adapters.kernels.deformable_attention import deformable_attention

SIZES = ((5, 7), (3, 4), (1, 2))


def make_inputs(
    sizes: tuple[tuple[int, int], ...] = SIZES, queries: int = 11, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations on the maps and around them, and weights."""
    generator = torch.Generator().manual_seed(0)
    cells, levels = sum(height * width for height, width in sizes), len(sizes)
    value = torch.randn(2, cells, 3, 4, generator=generator, dtype=dtype)
    locations = torch.rand(2, queries, 3, levels, 2, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(2, queries, 3, levels, 2, generator=generator, dtype=dtype)
    return tuple(x.requires_grad_() for x in (value, locations, weights))


def written_out(value: Tensor, sizes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
    """Equation 3 of arXiv 2010.04159, point by point: each cell within a cell's width gives by its nearness."""
    batch, queries, heads, levels, points, _ = locations.shape
    result = value.new_zeros(batch, queries, heads, value.shape[-1])
    for b, q, m, lev, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        height, width = sizes[lev]
        start = sum(h * w for h, w in sizes[:lev])
        x, y = (locations[b, q, m, lev, p] * torch.tensor([width, height])).tolist()
        for row in range(height):
            for column in range(width):
                near = max(0, 1 - abs(y - row - 0.5)) * max(0, 1 - abs(x - column - 0.5))
                if near:
                    result[b, q, m] += weights[b, q, m, lev, p] * near * value[b, start + row * width + column, m]
    return result.flatten(2)


@torch.no_grad()
@pytest.mark.parametrize("form", [deformable_attention, module._sample])
def test_the_definition(form: object) -> None:
    inputs = make_inputs(queries=4)
    torch.testing.assert_close(form(inputs[0], SIZES, *inputs[1:]), written_out(inputs[0], SIZES, *inputs[1:]))


@pytest.mark.parametrize("points", [1, 40, 2**16])
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1]], ids=["three levels", "one level"])
def test_numbers_and_gradients_of_mmcv(sizes: tuple[tuple[int, int], ...], points: int) -> None:
    inputs = make_inputs(sizes)
    expected = multi_scale_deformable_attn_pytorch(inputs[0], torch.tensor(sizes), *inputs[1:])
    gradient = torch.randn_like(expected)
    with mock.patch.object(module, "POINTS_AT_ONCE", points):
        actual = deformable_attention(inputs[0], sizes, *inputs[1:])
        got = torch.autograd.grad(actual, inputs, gradient)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, inputs, gradient))


@pytest.mark.parametrize("form", [deformable_attention, module._sample])
def test_gradients_are_the_differences(form: object) -> None:
    sizes = ((3, 4), (2, 2))
    inputs = make_inputs(sizes, queries=3)
    assert torch.autograd.gradcheck(lambda *some: form(some[0], sizes, *some[1:]), inputs, eps=1e-7, atol=1e-6, rtol=0)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_gradients_only_where_they_are_wanted(wanted: tuple[bool, ...]) -> None:
    inputs = [x.detach().requires_grad_(flag) for x, flag in zip(make_inputs(), wanted, strict=True)]
    deformable_attention(inputs[0], SIZES, *inputs[1:]).sum().backward()
    assert [x.grad is not None for x in inputs] == list(wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_fp32(dtype: torch.dtype) -> None:
    inputs = [x.detach().to(dtype) for x in make_inputs()]
    result = deformable_attention(inputs[0], SIZES, *inputs[1:])
    assert result.dtype == dtype
    expected = deformable_attention(inputs[0].float(), SIZES, *(x.float() for x in inputs[1:]))
    torch.testing.assert_close(result, expected.to(dtype), rtol=0, atol=0)


def test_nan_comes_out_as_nan() -> None:
    """Training that has lost its numbers says so by its loss, not by an index out of range."""
    value, locations, weights = make_inputs()
    locations = locations.detach().clone()
    locations[0, 3] = math.nan
    locations[1, 2] = math.inf
    result = deformable_attention(value, SIZES, locations, weights)
    lost = result.isnan().all(-1)
    assert lost[0, 3]
    assert lost[1, 2]
    assert lost.sum() == 2


class Attention(nn.Module):
    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deformable_attention(value, SIZES, locations, weights)


def test_exports_with_a_free_number_of_queries_and_traces_the_same() -> None:
    inputs = tuple(x.detach().float() for x in make_inputs())
    free = ({}, {1: torch.export.Dim.DYNAMIC}, {1: torch.export.Dim.DYNAMIC})
    program = torch.export.export(Attention(), inputs, dynamic_shapes=free)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in name for name in names)
    more = (inputs[0], *(torch.cat((x, x), dim=1) for x in inputs[1:]))
    torch.testing.assert_close(program.module()(*more), Attention()(*more))


def test_functional_transforms_see_plain_operators() -> None:
    value, locations, weights = (x.detach() for x in make_inputs())

    def loss(value: Tensor) -> Tensor:
        return deformable_attention(value, SIZES, locations, weights).square().sum()

    expected = torch.autograd.functional.jacobian(loss, value)
    torch.testing.assert_close(torch.func.grad(loss)(value), expected)


def test_nothing_is_sampled_into_memory() -> None:
    """Both passes go through the queries in chunks, and between them the inputs alone are kept."""
    sizes, queries = ((20, 30),), 3000
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 600, 4, 8, generator=generator, requires_grad=True)
    locations = torch.rand(1, queries, 4, 1, 4, 2, generator=generator, requires_grad=True)
    weights = torch.rand(1, queries, 4, 1, 4, generator=generator, requires_grad=True)
    kept: list[int] = []
    chunks: list[int] = []

    def record(cells: Tensor, grid: Tensor) -> Tensor:
        chunks.append(grid.shape[:3].numel())
        return grid_sample(cells, grid)

    grid_sample = module._grid_sample
    with mock.patch.object(module, "POINTS_AT_ONCE", 2**10), mock.patch.object(module, "_grid_sample", record):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            result = deformable_attention(value, sizes, locations, weights)
        result.sum().backward()
    assert sorted(kept) == sorted(x.numel() for x in (value, locations, weights))
    assert max(chunks) <= 2**10
    assert sum(chunks) == 2 * weights.numel()


def test_mmcvs_operator_is_called_where_it_is_wanted_and_there() -> None:
    """Without a GPU here: a stand-in for the operator, and values that say that they are on one."""
    value, locations, weights = make_inputs()

    class OnGpu(Tensor):
        is_cuda = True

    calls = []

    def operator(value: Tensor, *rest: object) -> Tensor:
        calls.append(value)
        return module._sample(value.as_subclass(Tensor), *rest)

    fake = value.detach().as_subclass(OnGpu)
    with (
        mock.patch.object(module, "_is_plain", return_value=True),
        mock.patch.object(module, "_find_operator_of_mmcv", return_value=operator),
    ):
        result = deformable_attention(fake, SIZES, locations, weights, use_mmcv=True)
        assert len(calls) == 1
        deformable_attention(value, SIZES, locations, weights, use_mmcv=True)  # on a CPU
        assert len(calls) == 1
    torch.testing.assert_close(result, deformable_attention(value, SIZES, locations, weights))
