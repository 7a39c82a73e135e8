"""Deformable RoI pooling beside its definition, point by point; mmcv compiles it for GPUs alone."""

import math

import pytest
import torch
from mmcv import ops
from operator_cases import OURS, differentiate, operators
from torch import Tensor


def bilinear(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The map ``(C, H, W)`` at a point inside."""
    top, left = int(y), int(x)
    down, along = y - top, x - left
    (one, two), (three, four) = features[:, top : top + 2, left : left + 2].permute(1, 2, 0)
    return (1 - down) * ((1 - along) * one + along * two) + down * ((1 - along) * three + along * four)


def by_definition(features: Tensor, rois: Tensor, offset: Tensor | None, bins: int, ratio: int, gamma: float) -> Tensor:
    pooled = []
    for number, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (side * 0.5 - 0.5 for side in box)
        height, width = y2 - y1, x2 - x1
        points_y, points_x = (ratio or math.ceil(side / bins) for side in (height, width))
        for row in range(bins):
            for column in range(bins):
                moved = torch.zeros(2) if offset is None else offset[number, :, row, column]
                top = y1 + gamma * height * moved[1] + row * height / bins
                left = x1 + gamma * width * moved[0] + column * width / bins
                points = [
                    bilinear(
                        features[int(image)],
                        top + (i + 0.5) * height / bins / points_y,
                        left + (j + 0.5) * width / bins / points_x,
                    )
                    for i in range(points_y)
                    for j in range(points_x)
                ]
                pooled.append(torch.stack(points).mean(0))
    return torch.stack(pooled).view(len(rois), bins, bins, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("moved", [False, True])
def test_equals_its_definition(ratio: int, moved: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 12, 14, requires_grad=True)
    rois = torch.tensor([[1, 4.3, 5.1, 16.2, 15.0], [0, 3.9, 4.2, 11.1, 19.0], [0, 5.2, 6.6, 8.1, 9.9]])
    offset = (torch.rand(3, 2, 2, 2) - 0.5).requires_grad_() if moved else None
    inputs = [features, *([offset] if offset is not None else [])]
    with operators("deform_roi_pool", OURS):
        actual = differentiate(ops.deform_roi_pool(features, rois, offset, (2, 2), 0.5, ratio, 0.2), inputs)
    expected = differentiate(by_definition(features, rois, offset, 2, ratio, 0.2), inputs)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_boxes_outside_and_no_boxes() -> None:
    features = torch.randn(1, 2, 5, 5)
    rois = torch.tensor([[0, 400.0, 400, 420, 420], [0, 3, 3, 3, 3]])
    with operators("deform_roi_pool", OURS):
        assert ops.deform_roi_pool(features, rois, None, (2, 2)).eq(0).all()
        assert ops.deform_roi_pool(features, rois[:0], None, (2, 2)).shape == (0, 2, 2, 2)
