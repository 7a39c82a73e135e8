"""Linear layers through oneDNN: torch's numbers, and torch's own path wherever something else is asked for."""

from unittest import mock

import pytest
import torch
from timm.layers import GELUTanh, Mlp
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, Spec, image, randomise

from adapters.kernels import linear as fused_linear
from adapters.kernels.linear import FusedLinear, FusedMlp, fuse_linears

TRANSFORMERS = [spec for spec in ZOO if spec.name in ("twins_svt", "swinv2_cr", "vit_rope_reg", "convit", "swin")]


def make(act_layer: type[nn.Module] = nn.GELU, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """A model of an MLP and a layer, as timm builds it and fused."""
    plain = randomise(nn.Sequential(Mlp(6, 10, 5, act_layer=act_layer, bias=bias), nn.Linear(5, 4, bias=bias))).eval()
    fused = nn.Sequential(Mlp(6, 10, 5, act_layer=act_layer, bias=bias), nn.Linear(5, 4, bias=bias)).eval()
    fused.load_state_dict(plain.state_dict())
    fuse_linears(fused)
    return plain, fused


def fused_calls(module: nn.Module, x: Tensor) -> int:
    """How many layers went through oneDNN."""
    with mock.patch.object(fused_linear, "onednn_linear", wraps=fused_linear.onednn_linear) as run:
        module(x)
    return run.call_count


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act_layer", [nn.GELU, GELUTanh, nn.ReLU])
@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 3, 4, 6)], ids=str)
def test_numbers_are_torchs(shape: tuple[int, ...], act_layer: type[nn.Module], bias: bool) -> None:
    plain, fused = make(act_layer, bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-6)
    assert fused_calls(fused, x) == 3
    across = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).t()
    torch.testing.assert_close(fused(across), plain(across), rtol=1e-5, atol=1e-6)
    assert fused(torch.zeros(0, 6)).shape == (0, 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "x", "0.fc1.weight", "1.weight"])
def test_gradients_are_torchs(frozen: str, bias: bool) -> None:
    plain, fused = make(bias=bias)
    generator = torch.Generator().manual_seed(0)
    x, towards = torch.randn(2, 3, 6, generator=generator), torch.randn(2, 3, 4, generator=generator)
    assert fused_calls(fused, x.requires_grad_()) == 3
    found = []
    for model in (plain, fused):
        image = x.detach().requires_grad_(frozen != "x")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name != frozen)
        wanted = [tensor for tensor in (image, *model.parameters()) if tensor.requires_grad]
        first = torch.autograd.grad((model(image) * towards).sum(), wanted, create_graph=True)
        # In the last layer's weights the sum is linear: they have no part in their own gradient's gradient.
        second = torch.autograd.grad(sum(one.square().sum() for one in first), wanted, allow_unused=True)
        found.append([*first, *second])
        model.zero_grad()
        (model(image) * towards).sum().backward()
        found[-1] += [tensor.grad for tensor in wanted]
    for expected, actual in zip(*found, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_transforms_of_functions_are_torchs() -> None:
    plain, fused = make()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    jacobians = [torch.func.vmap(torch.func.jacrev(model))(x) for model in (plain, fused)]
    torch.testing.assert_close(*jacobians, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("spec", TRANSFORMERS, ids=str)
def test_adapters_use_it(spec: Spec) -> None:
    adapter = spec.build()
    assert fused_calls(adapter, image(64, 64)) > 8
    with torch.enable_grad():
        assert fused_calls(adapter.train(), image(64, 64)) > 8


@torch.no_grad()
def test_what_is_put_on_a_layer_is_not_passed_by() -> None:
    x = torch.randn(2, 6)
    plain, fused = make()
    for model in (plain, fused):  # pruning recomputes the weight before each call
        prune.l1_unstructured(model[0].fc2, "weight", amount=0.5)
        with torch.no_grad():
            model[0].fc2.weight_orig.mul_(2)
    torch.testing.assert_close(fused(x), plain(x))
    plain, fused = make()
    seen = []
    fused[0].act.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    torch.testing.assert_close(fused(x), plain(x))
    assert len(seen) == 1
    plain, fused = make()
    fused[0].fc1.register_forward_hook(lambda _module, _inputs, output: output * 2)
    plain[0].fc1.register_forward_hook(lambda _module, _inputs, output: output * 2)
    torch.testing.assert_close(fused(x), plain(x))

    class LowRank(nn.Linear):
        """What adapters of another package put in a layer's place."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    plain, fused = make()
    for model in (plain, fused):
        replacement = LowRank(10, 5)
        replacement.load_state_dict(model[0].fc2.state_dict())
        model[0].fc2 = replacement
    torch.testing.assert_close(fused(x), plain(x))


@pytest.mark.parametrize("act_layer", [nn.GELU, GELUTanh, nn.ReLU])
@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_is_multiplied_without_gradients(act_layer: type[nn.Module], bias: bool) -> None:
    """Where the CPU has units for it."""
    layers = 3 if fused_linear.BF16_IS_FAST else 0
    plain, fused = make(act_layer, bias)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            assert fused_calls(fused, x) == layers
            assert fused(x).dtype == torch.bfloat16
            torch.testing.assert_close(fused(x).float(), plain(x).float(), rtol=2e-2, atol=5e-3)
            assert fused_calls(fused.double(), x.double()) == 0  # which autocast leaves alone
        assert fused_calls(fused.float(), x) == 0  # with gradients oneDNN is no faster
    with torch.no_grad():
        assert fused_calls(fused.bfloat16(), x.bfloat16()) == layers
        torch.testing.assert_close(fused(x.bfloat16()), plain.bfloat16()(x.bfloat16()), rtol=2e-2, atol=5e-3)


@torch.no_grad()
def test_float16_is_torchs() -> None:
    _, fused = make()
    with torch.autocast("cpu", dtype=torch.float16):
        assert fused_calls(fused, torch.randn(2, 6)) == 0


def test_other_passes_are_torchs() -> None:
    plain, fused = make()
    x = torch.randn(2, 6)
    with torch.no_grad():
        assert fused_calls(fused.double(), x.double()) == 0
        fused.float()
        with FlopCounterMode(display=False) as counter:
            fused(x)
        assert counter.get_total_flops() == 2 * 2 * (6 * 10 + 10 * 5 + 5 * 4)
        torch.testing.assert_close(torch.compile(fused, backend="eager")(x), plain(x))


@torch.no_grad()
def test_dropout_of_a_training_mode_stays() -> None:
    mlp = Mlp(6, 10, 6, drop=0.5)
    fuse_linears(mlp)
    x = torch.randn(64, 6)
    assert type(mlp) is FusedMlp
    assert type(mlp.fc1) is FusedLinear
    assert not torch.equal(mlp.train()(x), mlp(x))
    assert torch.equal(mlp.eval()(x), mlp(x))


def test_layers_of_their_own_kind_are_left_alone() -> None:
    class Gated(nn.Linear):
        pass

    model = nn.ModuleDict({"gated": Gated(2, 2), "attention": nn.MultiheadAttention(4, 2)})
    kinds = [type(module) for module in model.modules()]
    fuse_linears(model)
    assert [type(module) for module in model.modules()] == kinds
