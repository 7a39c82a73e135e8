"""Two ways of asking how much features tell: a linear classifier, and the nearest neighbours."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import adapters
from adapters import ExtractionOptions
from lab.real_weights.crops import Crops
from lab.real_weights.package import MODEL

NEIGHBOURS = 5
#: Weight of the squared weights in the linear probe's loss.
PENALTY = 1e-2

Features = dict[str, Tensor]


def extract_features(crops: Crops, checkpoint: str, seed: int = 0) -> Features:
    """Extract the mean of each level over its cells, and the embedding: ``(N, C)`` by name.

    Args:
        crops: the images.
        checkpoint: as ``adapters.extract`` takes it; ``'random'`` for random weights.
        seed: of random weights.
    """
    options = ExtractionOptions(outputs=("pyramid", "embedding"), batch_size=64)
    by_name: dict[str, list[Tensor]] = {}
    for found in adapters.extract(list(crops.images), MODEL, checkpoint, options, seed=seed):
        if found.reason is not None or found.embedding is None:
            raise ValueError(f"no features of crop {found.index}: {found.reason}.")
        for level, feature_map in zip(found.levels, found.maps, strict=True):
            by_name.setdefault(f"stride {level.stride}", []).append(feature_map.mean(dim=(1, 2)))
        by_name.setdefault("embedding", []).append(found.embedding)
    return {name: torch.stack(rows) for name, rows in by_name.items()}


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Give every feature of ``(N, C)`` and ``(M, C)`` the mean 0 and the deviation 1 that it has in the former."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    return (train - mean) / deviation, (test - mean) / deviation


def linear_probe(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Fit a linear classifier to ``(N, C)`` with labels ``(N,)``; return what labels ``(M,)`` it gives ``(M, C)``."""
    weight = torch.zeros(train.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(train @ weight + bias, labels) + PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return (test @ weight + bias).argmax(1)


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Return the label ``(M,)`` that most of the ``NEIGHBOURS`` of each of ``(M, C)`` have, by cosine similarity."""
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    votes = F.one_hot(labels[similarity.topk(NEIGHBOURS).indices]).sum(1)
    return votes.argmax(1)


PROBES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": linear_probe,
    "k-NN": nearest_neighbours,
}


def accuracies(train: Features, test: Features, labels: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """Return the accuracy of each probe on each kind of features.

    Args:
        train: features to fit to, ``(N, C)`` by name.
        test: features to judge by, ``(M, C)``.
        labels: of both.
    """
    found: dict[str, dict[str, float]] = {}
    for name in train:
        pair = standardised(train[name], test[name])
        found[name] = {
            probe: round(float((ask(pair[0], labels[0], pair[1]) == labels[1]).float().mean()), 4)
            for probe, ask in PROBES.items()
        }
    return found
