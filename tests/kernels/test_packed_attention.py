"""Attention inside windows: the same numbers in each of its forms, and the form that the pass asks for."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.kernels import packed_attention
from adapters.kernels.packed_attention import FEW_TOKENS, attend_packed

WINDOWS, TOKENS, HEADS, DEPTH = 3, 10, 2, 4
SCORES = {
    "none": None,
    "shared": (TOKENS, TOKENS),
    "by head": (HEADS, TOKENS, TOKENS),
    "by window": (WINDOWS, 1, TOKENS, TOKENS),
    "of all windows": (1, HEADS, TOKENS, TOKENS),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def written_out(qkv: Tensor, scores: Tensor | None, scale: float) -> Tensor:
    """As the formula has it, window by window and head by head."""
    out = torch.empty(qkv.shape[0], qkv.shape[1], qkv.shape[3], qkv.shape[4], dtype=qkv.dtype)
    for window in range(qkv.shape[0]):
        for head in range(qkv.shape[3]):
            query, key, value = (qkv[window, :, part, head] for part in range(3))
            products = query @ key.t() * scale
            if scores is not None:
                every = scores.expand(qkv.shape[0], qkv.shape[3], *scores.shape[-2:])
                products = products + every[window, head]
            weights = products.exp() / products.exp().sum(dim=-1, keepdim=True)
            out[window, :, head] = weights @ value
    return out.flatten(2)


def is_fused(run: Callable[[], Tensor]) -> bool:
    """Tell whether torch's fused attention was called."""
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused:
        run()
    return fused.call_count > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("kind", SCORES)
def test_numbers_and_gradients_are_those_of_the_formula(kind: str, scale: float | None, dtype: torch.dtype) -> None:
    shape = SCORES[kind]
    found = []
    for form in (lambda *arguments: written_out(*arguments[:2], scale or DEPTH**-0.5), attend_packed):
        half = form is attend_packed and dtype != torch.float32
        qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH).requires_grad_()
        scores = None if shape is None else draw(*shape, seed=1).requires_grad_()
        out = form(qkv.to(dtype) if half else qkv, scores, 0.0, scale)
        assert out.dtype == (dtype if half else torch.float32)
        out.float().backward(draw(*out.shape, seed=2))
        found.append([out.float(), qkv.grad, None if scores is None else scores.grad])
    for expected, actual in zip(*found, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            tolerance = 1e-5 if dtype == torch.float32 else 2e-2
            assert (actual - expected).norm() < tolerance * expected.norm()


def test_a_window_with_pads_attends_none() -> None:
    scores = torch.zeros(TOKENS, TOKENS)
    scores[:, -3:] = float("-inf")
    qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH)
    other = qkv.clone()
    other[:, -3:, 1:] = 100.0
    for dtype in (torch.float32, torch.bfloat16):
        one, two = (attend_packed(some.to(dtype), scores) for some in (qkv, other))
        assert torch.equal(one, two)
        assert one.isfinite().all()


@pytest.mark.parametrize("slow", [False, True])
def test_only_few_tokens_in_bfloat16_go_without_the_fused_kernel(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients always, without them where the CPU's fused kernel is slow."""
    monkeypatch.setattr(packed_attention, "FUSED_BF16_ATTENTION_IS_SLOW", slow)
    qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH)
    by_window = torch.zeros(WINDOWS, 1, TOKENS, TOKENS)
    assert not is_fused(lambda: attend_packed(qkv.bfloat16()))
    assert not is_fused(lambda: attend_packed(qkv.bfloat16(), by_window))
    with torch.no_grad():
        assert is_fused(lambda: attend_packed(qkv.bfloat16())) is not slow
    assert is_fused(lambda: attend_packed(qkv))
    assert is_fused(lambda: attend_packed(qkv.bfloat16(), dropout=0.5))
    assert is_fused(lambda: attend_packed(qkv.bfloat16().to("meta")))
    assert is_fused(lambda: attend_packed(draw(1, FEW_TOKENS + 1, 3, 1, 2).bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        assert attend_packed(qkv.bfloat16(), torch.zeros(TOKENS, TOKENS)).dtype == torch.bfloat16


def test_attention_is_dropped() -> None:
    torch.manual_seed(0)
    qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH)
    assert not torch.equal(attend_packed(qkv, dropout=0.5), attend_packed(qkv, dropout=0.5))
