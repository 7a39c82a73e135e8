"""Moving every parameter off its initial value, where much is zero or one and hides mistakes."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def randomise(module: M, seed: int = 0) -> M:
    """Add small noise to every parameter and running statistic, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.1 if parameter.ndim < 2 else 0.02
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1 + 0.5 * torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return module
