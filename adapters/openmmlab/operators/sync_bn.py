"""The steps of mmcv's batch norm over several processes, between which mmcv adds up what the processes found."""

from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the mean of each channel of ``(B, C, N)``."""
    mean.copy_(input.float().mean(dim=(0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean square of the distances of ``(B, C, N)`` from a mean of each channel."""
    var.copy_((input.float() - mean[:, None]).square().mean(dim=(0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Write the normalised input, and update the running statistics.

    Args:
        input: ``(B, C, N)``.
        mean: ``(C,)``, like all that follow of one number a channel.
        var: of all processes, as the mean.
        weight: factors of the output; None for 1.
        bias: added to the output.
        running_mean: becomes a mean over time; None where there is none.
        running_var: of the unbiased variance.
        norm: ``(B, C, N)``, becomes the output before weight and bias.
        std: becomes the standard deviation.
        output: ``(B, C, N)``.
        eps: added to the variance.
        momentum: share of the new statistics.
        group_size: processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None or bias is None else norm * weight[:, None] + bias[:, None])
    if running_mean is None or running_var is None:
        return
    count = input.shape[0] * input.shape[2] * group_size
    unbiased = var * count / (count - 1) if count > 1 else var
    running_mean.lerp_(mean.to(running_mean), float(momentum))
    running_var.lerp_(unbiased.to(running_var), float(momentum))


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Write the gradients of weight and bias from those of the output, ``(B, C, N)``."""
    grad_weight.copy_((grad_output.float() * norm).sum(dim=(0, 2)))
    grad_bias.copy_(grad_output.float().sum(dim=(0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradients of the input, ``(B, C, N)``; those of weight and bias are of all processes."""
    count = norm.shape[0] * norm.shape[2]
    shared = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - shared))
