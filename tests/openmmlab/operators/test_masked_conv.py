"""A masked convolution is torch's where the mask is; mmcv compiles it for GPUs alone."""

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from operator_cases import OURS, operators


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_equals_a_convolution_at_the_places_of_the_mask(share: float) -> None:
    torch.manual_seed(0)
    features, weight, bias = torch.randn(1, 3, 6, 8), torch.randn(5, 3, 3, 3), torch.randn(5)
    mask = (torch.rand(1, 6, 8) < share).float()
    with operators("masked_conv", OURS):
        actual = ops.masked_conv2d(features, mask, weight, bias, 1)
    torch.testing.assert_close(actual, F.conv2d(features, weight, bias, padding=1) * mask, atol=1e-5, rtol=1e-5)
