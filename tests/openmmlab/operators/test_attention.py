"""Multi-scale deformable attention in mmcv's autograd function, beside mmcv's own version in torch."""

import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from operator_cases import OURS, differentiate, operators


def test_equals_mmcv_in_torch() -> None:
    torch.manual_seed(0)
    shapes = torch.tensor([[4, 5], [2, 3]])
    starts = torch.tensor([0, 20])
    value = torch.randn(2, 26, 3, 4, requires_grad=True)
    locations = (torch.rand(2, 7, 3, 2, 4, 2) * 1.4 - 0.2).requires_grad_()
    weights = torch.rand(2, 7, 3, 2, 4, requires_grad=True)
    inputs = [value, locations, weights]
    with operators("multi_scale_deform_attn", OURS):
        output = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
        actual = differentiate(output, inputs)
    expected = differentiate(multi_scale_deformable_attn_pytorch(value, shapes, locations, weights), inputs)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
