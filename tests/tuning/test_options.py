"""The option peft=dict(...): its defaults, and one line for each mistake."""

from typing import Any

import pytest

from adapters.tuning.options import LowRankOptions, parse


def test_values_and_defaults() -> None:
    assert parse({}) == LowRankOptions("LoRA", 8, None, "attention")
    assert parse({}).scaling == 2
    options = parse(dict(type="DoRA", r=4, alpha=2, targets=["qkv", "fc1"], dropout=0.1, norms=True, biases=True))
    assert (options.scaling, options.targets) == (0.5, ("qkv", "fc1"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("LoRA", r"peft='LoRA' must be a dictionary such as dict\(type='LoRA', r=8\)"),
        ({"aplha": 4}, r"a key 'aplha' that is unknown: did you mean 'alpha'\?"),
        ({"zzz": 4}, r"unknown: it takes type, r, alpha, targets, dropout, norms, biases"),
        ({"type": "IA3"}, r"type='IA3' must be one of 'LoRA', 'DoRA'"),
        ({"r": 0}, r"r=0 must be a whole number of 1 or more"),
        ({"r": True}, r"r=True must be a whole number"),
        ({"alpha": 0}, r"alpha=0 must be a number above 0"),
        ({"targets": "attn"}, r"targets='attn' must be one of 'attention', 'mlp', 'all', or a list of names"),
        ({"targets": []}, r"targets=\[\] must be one of"),
        ({"targets": [3]}, r"targets=\[3\] must be one of"),
        ({"dropout": 1}, r"dropout=1 must be a rate from 0 to below 1"),
        ({"norms": 1}, r"norms=1 must be True or False\."),
        ({"biases": "all"}, r"biases='all' must be True or False\."),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(given)
