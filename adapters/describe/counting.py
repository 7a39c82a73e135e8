"""Counting parameters and multiply-adds of a model, without data where that is possible.

A model is built and run on the ``meta`` device, where tensors have shapes and nothing else: the largest detector takes
a second or two and no memory to speak of. A model that computes with values (the masks of a DETR) runs for real.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapters.describe.flops import flop_counter

aten = torch.ops.aten

#: Products of two activations. Nothing else in these models multiplies batches of matrices: all weights are in
#: convolutions and linear layers.
ATTENTION_OPERATORS = tuple(
    getattr(aten, name)
    for name in (
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(aten, name)  # older releases of torch lack the first and the last
)


@dataclass(frozen=True)
class Count:
    """The parameters of a model, and its multiply-adds for one image.

    Attributes:
        parameters: number of values in all parameters, frozen ones too, each once.
        multiply_adds: those of convolutions, linear layers and attention; norms, activations and resizing have none.
        attention: those that multiply activations with each other, which counters of layers leave out.
        deconvolution_excess: multiply-adds that counters add which take a transposed convolution for a convolution of
            its output's size, where most factors are zero.
        size: ``(H, W)`` of the image in pixels.
        parts: the parameters of each part of the model, by its name.
    """

    parameters: int
    multiply_adds: int
    attention: int
    deconvolution_excess: int
    size: tuple[int, int]
    parts: tuple[tuple[str, int], ...]


def count(module: nn.Module, size: tuple[int, int], run: Callable[[Tensor], Any], channels: int = 3) -> Count:
    """Count a module while ``run(image)`` runs it on one image ``(1, channels, H, W)`` of the module's device.

    Args:
        module: the model, on any device, ``meta`` among them.
        size: ``(H, W)`` of the image in pixels.
        run: runs the module on an image.
        channels: channels of the image.
    """
    device = next(module.parameters()).device
    # The image first: a random one has no value that a model would trip over, and on meta it costs nothing.
    image = torch.randn(1, channels, *size, device=device)
    counter = flop_counter()
    extra = _Extra(module)
    with torch.no_grad(), device, counter, extra:
        run(image)
    by_operator = counter.get_flop_counts()["Global"]
    attention = sum(flops for operator, flops in by_operator.items() if operator in ATTENTION_OPERATORS)
    return Count(
        parameters=count_parameters(module),
        multiply_adds=counter.get_total_flops() // 2 + extra.multiply_adds,
        attention=attention // 2,
        deconvolution_excess=extra.deconvolution_excess,
        size=size,
        parts=tuple((name, held) for name, part in module.named_children() if (held := count_parameters(part))),
    )


def count_parameters(module: nn.Module) -> int:
    """Return the number of values in the parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


class _Extra:
    """A counter of the operations that torch's counter does not see, such as mmcv's deformable convolutions."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.multiply_adds = 0
        self.deconvolution_excess = 0
        self._handles: list[Any] = []

    def __enter__(self) -> "_Extra":
        for child in self.module.modules():
            if type(child).__module__.startswith("mmcv.ops.") and hasattr(child, "deform_groups"):
                self._handles.append(child.register_forward_hook(self._deformable))
            elif isinstance(child, nn.ConvTranspose2d):
                self._handles.append(child.register_forward_hook(self._transposed))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _deformable(self, module: Any, _: Any, output: Tensor) -> None:
        self.multiply_adds += output.numel() * module.weight[0].numel()

    def _transposed(self, module: nn.ConvTranspose2d, inputs: tuple[Tensor], output: Tensor) -> None:
        cells = output.shape[0] * (output.shape[2] * output.shape[3] - inputs[0].shape[2] * inputs[0].shape[3])
        self.deconvolution_excess += cells * module.weight.numel()
