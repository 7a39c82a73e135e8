"""Reading a checkpoint by rules: the first name that the model has, thirds of a tensor, and nothing lost."""

import torch

from adapters.weights.projects.naming import Project, Reader, by_rules

RULES = [
    (r"a\.(\d)\.q", (r"b.\1.qkv#0", r"b.\1.q")),
    (r"a\.(\d)\.k", (r"b.\1.qkv#1", r"b.\1.k")),
    (r"a\.(\d)\.v", (r"b.\1.qkv#2", r"b.\1.v")),
    (r"a\.(\d)\.w", (r"b.\1.w",)),
]
PROJECT = Project("letters", "the alphabet's", (), by_rules(lambda _: RULES), layouts=((r"b\.\d\.w", torch.t),))


def test_rules_choose_what_the_model_has() -> None:
    reader = Reader(PROJECT, frozenset({"b.0.qkv", "b.1.q", "b.1.k", "b.0.w"}))
    state = {f"a.{block}.{part}": torch.full((2,), value) for block in "01" for value, part in enumerate("qkv")}
    read = reader.read({**state, "a.0.w": torch.tensor([[1, 2]]), "other": torch.ones(1)})
    assert read["b.0.qkv"].tolist() == [0, 0, 1, 1, 2, 2]
    assert read["b.0.w"].tolist() == [[1], [2]]
    assert set(read) == {"b.0.qkv", "b.0.w", "b.1.q", "b.1.k", "a.1.v", "other"}


def test_two_tensors_for_one_name_are_both_kept() -> None:
    reader = Reader(PROJECT, frozenset({"b.0.w", "b.0.qkv"}))
    state = {"a.0.w": torch.ones(1, 1), "b.0.w": torch.zeros(1, 1), "a.0.q": torch.ones(1), "a.0.v": torch.ones(1)}
    read = reader.read(state)
    assert set(read) == set(state)
    assert read["b.0.w"] == 0
