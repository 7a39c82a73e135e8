"""Deformable convolutions, plain (arXiv 1703.06211) and modulated (arXiv 1811.11168), by torchvision's operator.

Offsets hold y and x of each cell of the kernel in turn, in torchvision and mmcv alike. The buffers that the compiled
operators fill (``columns``, ``ones``) are passed over.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class _Geometry(NamedTuple):
    """The integers of a convolution, in the order of torchvision's operator."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    offset_groups: int


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the convolution ``(B, C, h, w)`` of an input ``(B, c, H, W)``, with ``d`` for the strides."""
    geometry = _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the gradients of the input, ``(B, c, H, W)``, and of the offsets."""
    geometry = _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    of_input, _, of_offset, _, _ = _differentiate(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.copy_(of_input)
    gradOffset.copy_(of_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add the gradient of the weight, ``(C, c / groups, rows, columns)``, times ``scale``."""
    geometry = _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    of_weight = _differentiate(gradOutput, input, torch.zeros_like(gradWeight), offset, None, None, geometry)[1]
    gradWeight.add_(of_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the convolution ``(B, C, h, w)`` of an input ``(B, c, H, W)`` whose samples are weighted by the mask."""
    geometry = _Geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_of_size(given, output.shape[2:]) for given in (offset, mask))
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write all gradients: of the input ``(B, c, H, W)``, the weight, the bias if any, the offsets and the mask."""
    geometry = _Geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_of_size(given, grad_output.shape[2:]) for given in (offset, mask))
    grad_offset, grad_mask = (_of_size(place, grad_output.shape[2:]) for place in (grad_offset, grad_mask))
    gradients = _differentiate(grad_output, input, weight, offset, mask, bias if with_bias else None, geometry)
    places = (grad_input, grad_weight, grad_offset, grad_mask, *([grad_bias] if with_bias else []))
    for place, gradient in zip(places, gradients[: len(places)], strict=True):
        place.copy_(gradient)


def _of_size(given: Tensor, size: torch.Size) -> Tensor:
    """Return a view of offsets or a mask ``(B, C, H, W)`` in the output's size, ``(B, C, h, w)``.

    The compiled operator reads the beginning of larger ones as if they had that size, and DyHead's are larger.
    """
    if given.shape[2:] == size:
        return given
    return given.view(len(given), -1)[:, : given.shape[1] * size.numel()].view(*given.shape[:2], *size)


def _convolve(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: _Geometry
) -> Tensor:
    given = _fill(input, weight, mask, bias)
    return torch.ops.torchvision.deform_conv2d(input, weight, offset, *given, *geometry, mask is not None)


def _differentiate(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> tuple[Tensor, ...]:
    """Compute the gradients of input, weight, offset, mask and bias, in this order."""
    given = _fill(input, weight, mask, bias)
    return torch.ops.torchvision._deform_conv2d_backward(
        gradient, input, weight, offset, *given, *geometry, mask is not None
    )


def _fill(input: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mask and bias as torchvision's operator takes them: tensors, where there is none, too."""
    return (
        input.new_zeros(len(input), 1) if mask is None else mask,
        weight.new_zeros(len(weight)) if bias is None else bias,
    )
