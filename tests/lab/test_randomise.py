"""Noise on parameters and running statistics: on all of them, the same for a seed, and bounded where asked."""

import torch
from lab.randomise import VECTOR_SCALE, randomise
from torch import nn


def make() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.Linear(4096, 64))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_every_parameter_and_statistic_moves() -> None:
    before, after = make().state_dict(), randomise(make()).state_dict()
    for name, tensor in after.items():
        if name.endswith("num_batches_tracked"):
            continue
        assert (tensor != before[name]).float().mean() > 0.99, name
    assert (after["1.running_var"] >= 1).all()


def test_a_seed_decides() -> None:
    one, same, other = (randomise(make(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_scales() -> None:
    model = randomise(make(), scale=0.02)
    assert 0.015 < model[0].weight.std() < 0.025
    assert 0.5 * VECTOR_SCALE < model[2].bias.std() < 1.5 * VECTOR_SCALE
    bounded = randomise(make(), fan_in_share=0.5)
    assert 0.03 < bounded[0].weight.std() < 0.05  # 0.5 / sqrt(16 * 3 * 3)
    assert 0.006 < bounded[2].weight.std() < 0.01  # 0.5 / sqrt(4096)
