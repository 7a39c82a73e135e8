"""The focal losses beside torchvision's and the definition; mmcv compiles them for GPUs alone."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmcv import ops
from operator_cases import OURS, differentiate, operators
from torch import Tensor


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.9)])
def test_sigmoid(gamma: float, alpha: float, weighted: bool) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(9, 4)).requires_grad_()
    classes = torch.randint(4 if weighted else 5, (9,))
    weight = torch.rand(4) if weighted else None
    with operators("focal_loss", OURS):
        actual = differentiate(ops.sigmoid_focal_loss(logits, classes, gamma, alpha, weight, "sum"), [logits])
    hits = F.one_hot(classes, 5)[:, :4].float()
    loss = torchvision.ops.sigmoid_focal_loss(logits, hits, alpha, gamma)
    loss = loss if weight is None else loss * weight[classes][:, None]
    assert_equal(actual, differentiate(loss.sum(), [logits]))


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax(weighted: bool) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(9, 4)).requires_grad_()
    classes = torch.randint(4, (9,))
    classes[3] = -1
    weight = torch.rand(4) if weighted else None
    with operators("focal_loss", OURS):
        actual = differentiate(ops.softmax_focal_loss(logits, classes, 2.0, 0.25, weight, "mean"), [logits])
    logs = logits.log_softmax(1).gather(1, classes.clamp(min=0)[:, None])[:, 0]
    loss = -0.25 * (1 - logs.exp()) ** 2 * logs * (1 if weight is None else weight[classes])
    assert_equal(actual, differentiate(loss[classes >= 0].sum() / 9, [logits]))


def test_certain_logits_have_finite_slopes() -> None:
    logits = torch.tensor([[200.0, -200.0]]).requires_grad_()
    with operators("focal_loss", OURS):
        loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum")
        (slopes,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(slopes).all()
