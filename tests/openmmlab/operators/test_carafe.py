"""CARAFE beside its definition by unfolded windows; mmcv compiles it for GPUs alone."""

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from operator_cases import OURS, differentiate, operators
from torch import Tensor

from adapters.openmmlab.operators.carafe import carafe_naive_backward


def by_definition(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    batch, channels, height, width = features.shape
    windows = F.unfold(features, kernel, padding=kernel // 2).view(batch, channels * kernel**2, height, width)
    windows = F.interpolate(windows, scale_factor=scale, mode="nearest")
    windows = windows.view(batch, groups, channels // groups, kernel**2, *windows.shape[2:])
    products = windows * masks.view(batch, groups, 1, kernel**2, *masks.shape[2:])
    return products.sum(dim=3).flatten(1, 2)


@pytest.mark.parametrize(("kernel", "groups", "scale"), [(5, 1, 2), (3, 2, 1), (1, 1, 3)])
def test_equals_its_definition(kernel: int, groups: int, scale: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 5, requires_grad=True)
    masks = torch.randn(2, groups * kernel**2, 3 * scale, 5 * scale, requires_grad=True)
    with operators("carafe", OURS):
        actual = differentiate(ops.carafe(features, masks, kernel, groups, scale), [features, masks])
        naive = ops.carafe_naive(features, masks, kernel, groups, scale)
    expected = differentiate(by_definition(features, masks, kernel, groups, scale), [features, masks])
    for one, other in zip([*actual, naive], [*expected, expected[0]], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_naive_backward_pass_writes_into_what_it_is_given() -> None:
    features, masks, gradient = torch.randn(1, 2, 3, 3), torch.randn(1, 9, 6, 6), torch.randn(1, 2, 6, 6)
    of_features, of_masks = torch.zeros_like(features), torch.zeros_like(masks)
    carafe_naive_backward(gradient, features, masks, of_features, of_masks, 3, 1, 2)
    inputs = features.requires_grad_(), masks.requires_grad_()
    expected = torch.autograd.grad(by_definition(*inputs, 3, 1, 2), inputs, gradient)
    torch.testing.assert_close((of_features, of_masks), expected)
