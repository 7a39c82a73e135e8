"""The focal loss (arXiv 1708.02002) of sigmoids and of a softmax, and its gradients."""

import torch
from torch import Tensor

#: The smallest normal number of fp32, below which no logarithm is taken.
TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each class of each row.

    Args:
        input: logits, ``(N, C)``.
        target: classes, ``(N,)``; any other number, such as ``C``, for the background.
        weight: a factor for each class, ``(C,)``, that the rows of it are multiplied by; ``(0,)`` for none.
        output: ``(N, C)``.
        gamma: exponent of the focus.
        alpha: weight of the positive classes.
    """
    positive, p = _hits(input, target), input.float().sigmoid()
    of_positive = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    of_negative = -(1 - alpha) * p**gamma * (1 - p).clamp(min=TINY).log()
    output.copy_(torch.where(positive, of_positive, of_negative) * _weights(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the slopes of the losses, ``(N, C)``; see :func:`sigmoid_focal_loss_forward`."""
    positive, p = _hits(input, target), input.float().sigmoid()
    of_positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=TINY).log())
    of_negative = -(1 - alpha) * p**gamma * (gamma * (1 - p) * (1 - p).clamp(min=TINY).log() - p)
    grad_input.copy_(torch.where(positive, of_positive, of_negative) * _weights(weight, target)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each row.

    Args:
        input: softmax, ``(N, C)``.
        target: classes, ``(N,)``; a negative one is passed over.
        weight: a factor for each class, ``(C,)``; ``(0,)`` for none.
        output: ``(N,)``.
        gamma: exponent of the focus.
        alpha: factor of the loss.
    """
    p = _of_target(input, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    output.copy_(torch.where(target >= 0, loss * _weights(weight, target), 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the slopes of the losses by the logits, ``(N, C)``; see :func:`softmax_focal_loss_forward`."""
    p = _of_target(input, target)
    slope = alpha * (gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=TINY).log() - (1 - p) ** gamma)
    buff.copy_(torch.where(target >= 0, slope * _weights(weight, target), 0))
    grad_input.copy_(buff[:, None] * (_hits(input, target).float() - input.float()))


def _hits(input: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.shape[1], device=input.device)


def _of_target(input: Tensor, target: Tensor) -> Tensor:
    return input.float().gather(1, target.clamp(min=0)[:, None])[:, 0]


def _weights(weight: Tensor, target: Tensor) -> Tensor:
    """Return the factor of each row, ``(N,)``; the background has none of its own and gets 1."""
    if not weight.numel():
        return torch.ones_like(target, dtype=torch.float32)
    is_class = (target >= 0) & (target < len(weight))
    return torch.where(is_class, weight.float()[target.clamp(0, len(weight) - 1)], 1)
