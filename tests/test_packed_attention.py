"""Attention inside windows: the same numbers in each of its forms, and the form that the pass asks for."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from adapters.families import packed_attention
from adapters.families.packed_attention import FEW_TOKENS, attend_packed

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


def forms_used(run: Callable[[], Tensor]) -> int:
    """How often the form by heads was taken."""
    with mock.patch.object(packed_attention, "_attend_by_head", wraps=packed_attention._attend_by_head) as form:
        run()
    return form.call_count


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("kind", SCORES)
def test_numbers_and_gradients_are_those_of_the_formula(kind: str, scale: float | None) -> None:
    shape = SCORES[kind]
    found = []
    for form in (lambda *arguments: written_out(*arguments[:2], scale or DEPTH**-0.5), attend_packed):
        qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH).requires_grad_()
        scores = None if shape is None else draw(*shape, seed=1).requires_grad_()
        out = form(qkv, scores, 0.0, scale)
        out.backward(draw(*out.shape, seed=2))
        found.append([out, qkv.grad, None if scores is None else scores.grad])
    for expected, actual in zip(*found, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_window_with_pads_attends_none() -> None:
    scores = torch.zeros(TOKENS, TOKENS)
    scores[:, -3:] = float("-inf")
    qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH)
    other = qkv.clone()
    other[:, -3:, 1:] = 100.0
    torch.testing.assert_close(attend_packed(qkv, scores), attend_packed(other, scores))
    assert attend_packed(qkv, scores).isfinite().all()


def test_few_tokens_on_the_cpu_go_by_heads() -> None:
    qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH)
    assert forms_used(lambda: attend_packed(qkv)) == 1
    assert forms_used(lambda: attend_packed(qkv, torch.zeros(WINDOWS, 1, TOKENS, TOKENS))) == 0
    assert forms_used(lambda: attend_packed(qkv, dropout=0.5)) == 0
    assert forms_used(lambda: attend_packed(qkv.to("meta"))) == 0
    assert forms_used(lambda: attend_packed(draw(1, FEW_TOKENS + 1, 3, 1, 2))) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert forms_used(lambda: attend_packed(qkv)) == 1
        assert attend_packed(qkv.bfloat16(), torch.zeros(TOKENS, TOKENS)).dtype == torch.bfloat16


def test_attention_is_dropped() -> None:
    torch.manual_seed(0)
    qkv = draw(WINDOWS, TOKENS, 3, HEADS, DEPTH)
    assert not torch.equal(attend_packed(qkv, dropout=0.5), attend_packed(qkv, dropout=0.5))
