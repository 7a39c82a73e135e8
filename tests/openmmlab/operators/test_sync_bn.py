"""mmcv's batch norm of several processes, with one, beside torch's; mmcv compiles it for GPUs alone."""

import torch
from mmcv.ops.sync_bn import SyncBatchNormFunction
from operator_cases import OURS, differentiate, operators
from torch import nn


def test_equals_torch_in_one_process() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.3)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    image = torch.randn(4, 3, 5, 7, requires_grad=True)
    inputs = [image, norm.weight, norm.bias]
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    with operators("sync_bn", OURS):
        output = SyncBatchNormFunction.apply(image, mean, var, norm.weight, norm.bias, 0.3, norm.eps, None, 1, "N")
        actual = [*differentiate(output, inputs), mean, var]
    expected = [*differentiate(norm(image), inputs), norm.running_mean, norm.running_var]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
