"""Changes of modules in place: parameters, names, hooks, copies and pickles stay those of an ordinary module."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab.randomise import randomise
from timm.layers import PatchEmbed
from timm.models.levit import Attention
from torch import nn

from adapters.trunk.surgery import forget_size, graft, graft_methods, switch_off_bias_caches


class Doubled(nn.Linear):
    """A linear layer whose result is doubled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to ``(..., C)``."""
        return 2 * super().forward(x)


def plus_one(cls: Any) -> dict[str, Callable[..., Any]]:
    return {"forward": lambda self, x: cls.forward(self, x) + 1}


def tripled(cls: Any) -> dict[str, Callable[..., Any]]:
    return {"forward": lambda self, x: 3 * cls.forward(self, x)}


def test_a_graft_changes_the_class_alone() -> None:
    layer = nn.Linear(3, 2)
    before, x = dict(layer.named_parameters()), torch.randn(4, 3)
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    expected = 2 * layer(x)
    assert graft(layer, Doubled) is layer
    torch.testing.assert_close(layer(x), expected)
    assert {name: id(parameter) for name, parameter in layer.named_parameters()} == {
        name: id(parameter) for name, parameter in before.items()
    }
    assert len(seen) == 2


def test_a_graft_of_another_class_is_refused() -> None:
    with pytest.raises(AssertionError, match="Doubled must derive from Conv2d"):
        graft(nn.Conv2d(1, 1, 1), Doubled)


def test_methods_are_grafted_on_top_of_one_another() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    plain = layer(x)
    graft_methods(layer, plus_one)
    torch.testing.assert_close(layer(x), plain + 1)
    graft_methods(layer, tripled)
    torch.testing.assert_close(layer(x), 3 * (plain + 1))
    assert isinstance(layer, nn.Linear)
    assert type(layer).__name__ == "Linear"
    assert type(graft_methods(graft_methods(nn.Linear(1, 1), plus_one), tripled)) is type(layer)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_grafted_methods_survive_copies_and_pickles(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    graft_methods(graft_methods(layer, plus_one), tripled)
    expected = layer(x)
    twin = duplicate(layer)
    nn.init.zeros_(layer.weight)
    assert type(twin) is type(layer)
    assert torch.equal(twin(x), expected)


class OwnEmbed(PatchEmbed):
    """A patch embedding as a user may hand it to timm, which may need its ``img_size``."""


@pytest.mark.parametrize("cls", [PatchEmbed, OwnEmbed])
def test_a_patch_embedding_forgets_its_size(cls: type[PatchEmbed]) -> None:
    embedding = cls(img_size=32, patch_size=8, embed_dim=6, flatten=False)
    image = torch.randn(1, 3, 24, 40)
    with pytest.raises(AssertionError, match="height"):
        embedding(image)
    forget_size(embedding)
    assert torch.equal(embedding(image), embedding.proj(image))


@torch.no_grad()
def test_attention_biases_are_gathered_in_every_pass() -> None:
    attention = randomise(Attention(dim=8, key_dim=4, num_heads=2, resolution=(3, 3)))
    attention.eval()
    x = torch.randn(1, 9, 8)
    kept = copy.deepcopy(attention)
    switch_off_bias_caches(attention)
    stale = kept(x)
    assert torch.equal(attention(x), stale)
    for module in (attention, kept):
        module.attention_biases.data.mul_(-2)  # of which autograd does not know
    assert torch.equal(kept(x), stale), "timm gathers anew: what is tested here is not needed any more"
    kept.attention_bias_cache.clear()
    assert torch.equal(attention(x), kept(x))
    assert not torch.equal(attention(x), stale)
    assert not attention.attention_bias_cache
