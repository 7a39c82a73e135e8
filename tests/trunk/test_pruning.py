"""Parts without a share in the maps are removed, those that the pass touches all the same are frozen."""

import copy

import torch
from torch import Tensor, nn

from adapters.trunk.probing import parameters_behind, probe
from adapters.trunk.pruning import Removal, remove_unused


class Trunk(nn.Module):
    """A convolution that gives the map, and four parts that have no share in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.token = nn.Parameter(torch.ones(4))
        self.touched = nn.Linear(4, 4)
        self.touched_token = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        """Compute a map ``(B, 4, H, W)`` of an image ``(B, 3, H, W)``."""
        x = self.stem(x)
        self.touched.weight.shape[0] + self.touched_token.shape[0]  # neither an Identity nor None has these
        return x


def shape_of(trunk: nn.Module) -> torch.Size | None:
    """The shape of the map; None where the trunk fails."""
    try:
        return trunk(torch.zeros(1, 3, 2, 2)).shape
    except AttributeError:
        return None


def prune(trunk: nn.Module) -> Removal:
    """Remove what a probe finds unused."""
    used = parameters_behind(probe(trunk, lambda module, image: [module(image)], (1, 3, 2, 2)))
    shape = shape_of(trunk)
    return remove_unused(trunk, used, still_runs=lambda: shape_of(trunk) == shape)


def test_unused_parts_are_removed_or_frozen() -> None:
    trunk = Trunk()
    done = prune(trunk)
    assert done.modules == ["head"]
    assert done.parameters == ["token"]
    assert done.frozen == ["touched.weight", "touched.bias", "touched_token"]
    assert {name for name, parameter in trunk.named_parameters() if parameter.requires_grad} == {
        "stem.weight",
        "stem.bias",
    }


def test_a_removal_serves_another_model_of_the_same_structure() -> None:
    torch.manual_seed(0)
    first, second = Trunk(), Trunk()
    before = copy.deepcopy(second)
    prune(first).apply(second)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert [p.requires_grad for p in first.parameters()] == [p.requires_grad for p in second.parameters()]
    x = torch.randn(1, 3, 5, 7)
    assert torch.equal(second(x), before(x))
