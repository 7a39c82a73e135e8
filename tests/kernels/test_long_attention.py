"""Long attention in bfloat16: the formula's numbers, torch's own kernel for everything else, and timm's calls found."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, Spec, image

from adapters.kernels import long_attention
from adapters.kernels.long_attention import attend

LONG = [spec for spec in ZOO if spec.name in ("twins_svt", "twins_pcpvt", "convit", "vit_rope_reg", "vit")]


@pytest.fixture(autouse=True)
def _as_where_the_kernel_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CPU the tests run on, and for attention as short as that of small images."""
    monkeypatch.setattr(long_attention, "FUSED_BF16_ATTENTION_IS_SLOW", True)
    monkeypatch.setattr(long_attention, "FEWEST_KEYS", 4)
    monkeypatch.setattr(long_attention, "FEWEST_SCORES", 16)
    monkeypatch.setattr(long_attention, "FEWEST_PIXELS", 64 * 64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def queries_keys_values(
    batch: int = 2, heads: int = 3, queries: int = 20, keys: int = 12, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:
    """As a projection leaves them: tokens before heads in memory."""
    query = draw(batch, queries, heads, 8, seed=1).transpose(1, 2)
    key, value = draw(batch, keys, 2, heads, 8, seed=2).permute(2, 0, 3, 1, 4)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def chunked_calls(run: Callable[[], Any]) -> int:
    """How many calls were worked through in chunks."""
    wrapped = long_attention._attend_in_chunks
    with mock.patch.object(long_attention, "_attend_in_chunks", wraps=wrapped) as chunked:
        run()
    return chunked.call_count


@torch.no_grad()
@pytest.mark.parametrize("score_bytes", [1, 12 * 2 * 7, 12 * 2 * 20, 12 * 2 * 20 * 2, 1 << 20])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_numbers_are_those_of_the_formula(
    score_bytes: int, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query at a time, some of a head, a head, two of three heads, all."""
    monkeypatch.setattr(long_attention, "SCORE_BYTES", score_bytes)
    query, key, value = queries_keys_values()
    products = query.double() @ key.double().transpose(2, 3) * (8**-0.5 if scale is None else scale)
    expected = products.softmax(dim=-1) @ value.double()
    assert chunked_calls(lambda: attend(query, key, value, scale=scale)) == 1
    actual = attend(query, key, value, scale=scale)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 1e-2 * expected.norm()
    assert actual.transpose(1, 2).is_contiguous()


@torch.no_grad()
def test_values_may_be_of_another_depth() -> None:
    query, key, value = queries_keys_values()
    expected = F.scaled_dot_product_attention(query, key, value[..., :5])
    torch.testing.assert_close(attend(query, key, value[..., :5]), expected, rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_autocast_casts() -> None:
    query, key, value = queries_keys_values(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert chunked_calls(lambda: attend(query, key.bfloat16(), value)) == 1
        assert attend(query, key, value).dtype == torch.bfloat16
        assert chunked_calls(lambda: attend(query.double(), key.double(), value.double())) == 0
    with torch.autocast("cpu", torch.float16):
        assert chunked_calls(lambda: attend(query, key, value)) == 0


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": torch.zeros(20, 12, dtype=torch.bfloat16)},
        {"dropout_p": 0.5},
        {"is_causal": True},
        {"enable_gqa": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_asks_for_more_is_torchs(options: dict[str, Any]) -> None:
    inputs = queries_keys_values()
    assert chunked_calls(lambda: attend(*inputs, **options)) == 0
    torch.manual_seed(0)
    expected = F.scaled_dot_product_attention(*inputs, **options)
    torch.manual_seed(0)
    assert torch.equal(attend(*inputs, **options), expected)


def test_other_passes_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = queries_keys_values()
    assert chunked_calls(lambda: attend(*inputs)) == 0  # gradients are on
    with torch.no_grad():
        assert chunked_calls(lambda: attend(*inputs)) == 1
        assert chunked_calls(lambda: attend(*(x.float() for x in inputs))) == 0
        assert chunked_calls(lambda: attend(*(x.to("meta") for x in inputs))) == 0
        assert chunked_calls(lambda: attend(*(x[0] for x in inputs))) == 0
        assert chunked_calls(lambda: attend(inputs[0], *(x[:1] for x in inputs[1:]))) == 0
        assert chunked_calls(lambda: attend(*queries_keys_values(keys=3))) == 0
        assert chunked_calls(lambda: attend(*queries_keys_values(queries=1))) == 0
        with FlopCounterMode(display=False):
            assert chunked_calls(lambda: attend(*inputs)) == 0
        monkeypatch.setattr(long_attention, "FUSED_BF16_ATTENTION_IS_SLOW", False)
        assert chunked_calls(lambda: attend(*inputs)) == 0


@pytest.mark.parametrize("spec", LONG, ids=str)
def test_adapters_attend_in_chunks(spec: Spec) -> None:
    adapter = spec.build()
    x = image(96, 128)
    with torch.no_grad():
        exact = adapter(x)
        assert chunked_calls(lambda: adapter(x)) == 0
        with torch.autocast("cpu", torch.bfloat16):
            assert chunked_calls(lambda: adapter(x)) > 0
            for one, other in zip(adapter(x), exact, strict=True):
                assert (one - other).norm() < 2e-2 * other.norm()
    with torch.autocast("cpu", torch.bfloat16):
        assert chunked_calls(lambda: adapter(x)) == 0


class Attention(nn.Module):
    """A trunk of timm's kind."""

    fused_attn = True


@torch.no_grad()
def test_calls_are_looked_for_where_they_can_be_long() -> None:
    inputs = queries_keys_values()

    def found(trunk: nn.Module, x: Tensor) -> int:
        with long_attention.redirect_attention(trunk, x):
            return chunked_calls(lambda: F.scaled_dot_product_attention(*inputs))

    large = torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)
    assert found(Attention(), large) == 1
    assert found(nn.Sequential(Attention()), large) == 1
    assert found(nn.Identity(), large) == 0
    assert found(Attention(), large[..., :63]) == 0
    assert found(Attention(), large[..., :32].expand(2, -1, -1, -1)) == 1
    assert found(Attention(), large.float()) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert found(Attention(), large.float()) == 1
    with torch.enable_grad():
        assert found(Attention(), large) == 0
    assert chunked_calls(lambda: F.scaled_dot_product_attention(*inputs)) == 0
