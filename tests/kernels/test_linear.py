"""Linear layers through oneDNN: torch's numbers, and torch's own path wherever something else is asked for."""

from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, image, randomise

from adapters.kernels import linear as module
from adapters.kernels import mlp
from adapters.kernels.cpu import BF16_IS_FAST
from adapters.kernels.linear import linear


def make(bias: bool = True) -> nn.Linear:
    return randomise(nn.Linear(6, 4, bias=bias))


def fused_calls(layer: nn.Module, x: Tensor) -> int:
    """Count the products that oneDNN computes."""
    with mock.patch.object(module, "onednn_linear", wraps=module.onednn_linear) as run:
        linear(layer, x)
    return run.call_count


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 3, 4, 6)], ids=str)
def test_numbers_are_torchs(shape: tuple[int, ...], bias: bool) -> None:
    layer = make(bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(linear(layer, x), layer(x), rtol=1e-5, atol=1e-6)
    assert fused_calls(layer, x) == 1
    across = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).t()
    torch.testing.assert_close(linear(layer, across), layer(across), rtol=1e-5, atol=1e-6)
    assert linear(layer, torch.zeros(0, 6)).shape == (0, 4)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_is_multiplied_where_the_cpu_has_units_for_it(bias: bool) -> None:
    layer = make(bias)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused_calls(layer, x) == BF16_IS_FAST
        assert linear(layer, x).dtype == torch.bfloat16
        torch.testing.assert_close(linear(layer, x).float(), layer(x).float(), rtol=2e-2, atol=5e-3)
        assert fused_calls(make().double(), x.double()) == 0  # which autocast leaves alone
    layer, x = layer.bfloat16(), x.bfloat16()
    assert fused_calls(layer, x) == BF16_IS_FAST
    torch.testing.assert_close(linear(layer, x), layer(x), rtol=2e-2, atol=5e-3)


def test_other_passes_are_torchs() -> None:
    layer, x = make(), torch.randn(2, 6)
    assert fused_calls(layer, x) == 0  # gradients are on
    linear(layer, x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        assert fused_calls(make().double(), x.double()) == 0
        with torch.autocast("cpu", dtype=torch.float16):
            assert fused_calls(layer, x) == 0
        with FlopCounterMode(display=False) as counter:
            linear(layer, x)
        assert counter.get_total_flops() == 2 * 2 * 6 * 4
        torch.testing.assert_close(torch.func.vmap(lambda row: linear(layer, row))(x), layer(x))
        compiled = torch.compile(lambda x: linear(layer, x), backend="eager")
        torch.testing.assert_close(compiled(x), layer(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["twins_svt", "swinv2_cr", "vit_rope_reg", "convit", "swin"])
def test_adapters_use_it(name: str) -> None:
    adapter = next(spec for spec in ZOO if spec.name == name).build()
    patches = [mock.patch.object(place, "onednn_linear", wraps=module.onednn_linear) for place in (module, mlp)]
    with patches[0] as linears, patches[1] as mlps:
        adapter(image(64, 64))
        assert mlps.call_count > 4
        assert (linears.call_count > 4) is (name in ("twins_svt", "swinv2_cr"))
