"""Feature maps as colours: the three directions in which a level varies most become red, green and blue.

The directions, and the scale of each, are those of all images together (principal components of every cell), so that
one colour means one thing throughout a gallery.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Standard deviations from the mean at which a colour channel is at its end.
REACH = 2.5


@dataclass(frozen=True)
class Basis:
    """Principal components of a level over all images.

    Attributes:
        mean: ``(C,)``.
        components: ``(C, k)``, of unit length, ``k`` at most 3.
        spread: ``(k,)``, the standard deviation along each.
    """

    mean: Tensor
    components: Tensor
    spread: Tensor

    @classmethod
    def fit(cls, maps: Iterable[Tensor]) -> "Basis":
        """The basis of all cells of ``maps``, each ``(C, h, w)``, which are gone through once."""
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for feature_map in maps:
            cells = feature_map.flatten(1).double()
            count += cells.shape[1]
            total = total + cells.sum(dim=1)
            products = products + cells @ cells.T
        assert count, "there is a map at least"
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - mean[:, None] * mean[None, :])
        components = vectors[:, -3:].flip(1)
        # A component's sign is arbitrary: let its largest entry be positive.
        largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
        components = components * torch.where(largest < 0, -1.0, 1.0)
        return cls(mean, components, variances[-3:].flip(0).clamp_min(0).sqrt())

    def colours(self, feature_map: Tensor) -> NDArray[np.uint8]:
        """``(C, h, w)`` to ``(h, w, 3)``; a direction that does not vary is grey."""
        _, height, width = feature_map.shape
        cells = feature_map.flatten(1).T.double() - self.mean
        # Rounding leaves a little where nothing varies.
        floor = 1e-6 * self.mean.abs().max().clamp_min(1e-6)
        along = (cells @ self.components) / (REACH * self.spread.clamp_min(floor))
        pixels = torch.full((height * width, 3), 0.5, dtype=torch.float64)
        pixels[:, : along.shape[1]] += along.clamp(-1, 1) / 2
        return (pixels * 255).round().to(torch.uint8).view(height, width, 3).numpy()
