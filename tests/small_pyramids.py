"""Small pyramids of every kind, with weights and references for tests of them."""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid

# The stride that each input stride is brought to before doublings and poolings, for levels 4, 8, 16, 32.
GRID_STRIDE = {8: 8, 14: 16, 16: 16, 32: 32, 7: 8, 10: 8, 12: 16, 4: 4, 64: 64}
PYRAMIDS = {
    "simple": lambda stride=16, channels=8, **keywords: SimpleFeaturePyramid(channels, stride, 6, **keywords),
    "simple without norm": lambda stride=16, channels=8: SimpleFeaturePyramid(channels, stride, 6, norm=False),
    "simple with extra level": lambda stride=16, channels=8: SimpleFeaturePyramid(
        channels, stride, 6, extra_level=True
    ),
    "tap": lambda stride=16, channels=8: TapPyramid(channels, stride),
    "projected tap": lambda stride=16, channels=8: TapPyramid(channels, stride, out_channels=6),
}
Make = Callable[..., SimpleFeaturePyramid | TapPyramid]


def randomise(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def random_maps(pyramid: nn.Module, height: int, width: int, channels: int = 8, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, channels, height, width) for _ in range(pyramid.wanted_maps)]


def make_transparent(pyramid: nn.Module) -> nn.Module:
    """Weights with which every layer hands its cells on unchanged; GELU does so for large positive values."""
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            middle = module.kernel_size[0] // 2
            for channel in range(2):  # the two that hold coordinates
                if isinstance(module, nn.ConvTranspose2d):
                    module.weight.data[channel, channel] = 1
                else:
                    module.weight.data[channel, channel, middle, middle] = 1
        for name, child in list(module.named_children()):
            if isinstance(child, LayerNorm2d):
                setattr(module, name, nn.Identity())
    return pyramid


class ChannelNorm(nn.Module):
    """Layer norm over channels, written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def share_weights(reference: nn.Module, module: nn.Module) -> None:
    names, values = reference.state_dict().keys(), module.state_dict().values()
    reference.load_state_dict(dict(zip(names, values, strict=True)))


def ramp_image(height: int, width: int) -> Tensor:
    """``(1, 2, height, width)``: each pixel holds the x and the y of its centre, plus 100."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])[None] + 100


def gradients(run: Callable[..., Any], module: nn.Module, inputs: Any) -> list[Tensor]:
    """The gradients of a module's parameters after a pass of ``run``, which is the module or its compiled form."""
    module.zero_grad()
    output = run(inputs)
    (output if isinstance(output, Tensor) else output[0]).square().mean().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]
