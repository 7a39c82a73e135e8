"""Moving parameters off their initial values, many of which are zero or one and would hide a mistake."""

from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

#: Standard deviation of the noise on biases, scales of norms and other vectors.
VECTOR_SCALE = 0.1


def randomise(module: M, seed: int = 0, scale: float = 0.05, fan_in_share: float | None = None) -> M:
    """Add seeded noise to every parameter and every running statistic of a module, in place; return the module.

    Args:
        module: what to change.
        seed: of the noise.
        scale: standard deviation of the noise on weights of two dimensions and more. Small trunks of the tests bear
            0.05; in models of full depth and width activations would explode.
        fan_in_share: keeps the noise on a weight below this share of ``fan_in ** -0.5``, for models of full width.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor, deviation: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * deviation

    with torch.no_grad():
        for parameter in module.parameters():
            deviation = VECTOR_SCALE if parameter.ndim < 2 else scale
            if parameter.ndim >= 2 and fan_in_share is not None:
                deviation = min(scale, fan_in_share * parameter[0].numel() ** -0.5)
            parameter.add_(noise(parameter, deviation))
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1 + 0.5 * torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.add_(noise(buffer, VECTOR_SCALE))
    return module
