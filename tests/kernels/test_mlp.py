"""timm's perceptron through oneDNN: torch's numbers, chunk by chunk too, and dropout where it is asked for."""

from unittest import mock

import pytest
import torch
from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, image, randomise

from adapters.kernels import mlp as module
from adapters.kernels.cpu import BF16_IS_FAST
from adapters.kernels.mlp import CHUNK_BYTES, FusedMlp, chunk_length
from adapters.trunk.fused_mlps import fuse_mlps


def make(act_layer: type[nn.Module] = nn.GELU, bias: bool = True) -> tuple[Mlp, FusedMlp]:
    """timm's perceptron, and the fused one with the same parameters."""
    both = [randomise(Mlp(6, 10, 5, act_layer=act_layer, bias=bias)).eval() for _ in range(2)]
    both[1].load_state_dict(both[0].state_dict())
    fuse_mlps(both[1])
    assert type(both[1]) is FusedMlp
    assert type(both[1].fc1) is nn.Linear
    return both[0], both[1]


def fused_calls(mlp: nn.Module, x: Tensor) -> int:
    with mock.patch.object(module, "onednn_linear", wraps=module.onednn_linear) as run:
        mlp(x)
    return run.call_count


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act_layer", [nn.GELU, GELU, GELUTanh, nn.ReLU])
@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 3, 4, 6)], ids=str)
def test_numbers_are_torchs(shape: tuple[int, ...], act_layer: type[nn.Module], bias: bool) -> None:
    reference, fused = make(act_layer, bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(x), reference(x), rtol=1e-5, atol=1e-6)
    assert fused_calls(fused, x) == (0 if act_layer is nn.ReLU else 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_calls(fused, x) == (0 if act_layer is nn.ReLU else 2 * BF16_IS_FAST)
        torch.testing.assert_close(fused(x).float(), reference(x).float(), rtol=2e-2, atol=5e-3)


@torch.no_grad()
@pytest.mark.parametrize("chunk_bytes", [1, 100, 4000])
def test_chunks_change_nothing(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, fused = make()
    x = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    torch.testing.assert_close(fused(x), reference(x), rtol=1e-5, atol=1e-6)
    assert fused_calls(fused, x) == {1: 200, 100: 100, 4000: 2}[chunk_bytes]


def test_only_large_hidden_results_are_cut() -> None:
    assert chunk_length(2 * CHUNK_BYTES - 1, 1) == 2 * CHUNK_BYTES - 1
    assert chunk_length(2 * CHUNK_BYTES, 1) == CHUNK_BYTES
    assert chunk_length(10, 10 * CHUNK_BYTES) == 1


def test_gradients_are_torchs() -> None:
    gradients = []
    for mlp in make():
        x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert fused_calls(mlp, x) == 0
        mlp(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in mlp.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_bfloat16_is_multiplied_where_the_cpu_has_units_for_it() -> None:
    (reference, fused), x = make(), torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    reference.bfloat16(), fused.bfloat16()
    assert fused_calls(fused, x.bfloat16()) == 2 * BF16_IS_FAST
    torch.testing.assert_close(fused(x.bfloat16()), reference(x.bfloat16()), rtol=2e-2, atol=5e-3)


@torch.no_grad()
def test_other_passes_are_torchs() -> None:
    (reference, fused), x = make(), torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    across = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).t()
    torch.testing.assert_close(fused(across), reference(across), rtol=1e-5, atol=1e-6)
    assert fused(torch.zeros(0, 6)).shape == (0, 5)
    assert fused_calls(make()[1].double(), x.double()) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused_calls(make()[1].double(), x.double()) == 0  # which autocast leaves alone
    with torch.autocast("cpu", dtype=torch.float16):
        assert fused_calls(fused, x) == 0
    with FlopCounterMode(display=False) as counter:
        fused(x)
    assert counter.get_total_flops() == 2 * 2 * (6 * 10 + 10 * 5)
    torch.testing.assert_close(torch.func.vmap(fused)(x), reference(x))
    torch.testing.assert_close(torch.compile(fused, backend="eager")(x), reference(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["twins_svt", "swinv2_cr", "vit_rope_reg", "convit", "swin"])
def test_adapters_use_it(name: str) -> None:
    adapter = next(spec for spec in ZOO if spec.name == name).build()
    with mock.patch.object(module, "onednn_linear", wraps=module.onednn_linear) as run:
        adapter(image(64, 64))
    assert run.call_count > 4


@torch.no_grad()
def test_dropout_of_a_training_mode_stays() -> None:
    mlp = Mlp(6, 10, 6, drop=0.5)
    fuse_mlps(mlp)
    x = torch.randn(64, 6)
    assert not torch.equal(mlp.train()(x), mlp(x))
    assert torch.equal(mlp.eval()(x), mlp(x))
    mlp.drop1.train()
    assert not torch.equal(mlp(x), mlp(x))


def test_perceptrons_of_another_kind_are_left_alone() -> None:
    class Gated(Mlp):
        pass

    model = nn.ModuleList([Gated(2, 2), Mlp(2, norm_layer=nn.LayerNorm)])
    fuse_mlps(model)
    assert [type(mlp) for mlp in model] == [Gated, Mlp]
