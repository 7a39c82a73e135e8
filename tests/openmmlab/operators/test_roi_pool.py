"""RoIPool beside its definition, bin by bin; mmcv compiles it for GPUs alone."""

import math

import torch
from mmcv import ops
from operator_cases import OURS, differentiate, operators
from torch import Tensor


def by_definition(features: Tensor, rois: Tensor, bins: int, scale: float) -> Tensor:
    height, width = features.shape[2:]
    pooled = []
    for image, x1, y1, x2, y2 in rois.tolist():
        high, wide = (y2 + 1 - y1) * scale / bins, (x2 + 1 - x1) * scale / bins
        for row in range(bins):
            for column in range(bins):
                y, x = y1 * scale + row * high, x1 * scale + column * wide
                rows = slice(max(math.floor(y), 0), min(max(math.ceil(y + high), 0), height))
                columns = slice(max(math.floor(x), 0), min(max(math.ceil(x + wide), 0), width))
                cells = features[int(image), :, rows, columns].flatten(1)
                pooled.append(cells.amax(1) if cells.shape[1] else cells.sum(1))
    return torch.stack(pooled).view(len(rois), bins, bins, -1).permute(0, 3, 1, 2)


def test_equals_its_definition() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 9, 13, requires_grad=True)
    rois = torch.tensor([[1, 1.3, 2.1, 20.2, 15.0], [0, -9.9, 4.2, 11.1, 40.0], [0, 60.2, 6.6, 70.1, 9.9]])
    with operators("roi_pool", OURS):
        actual = differentiate(ops.roi_pool(features, rois, (3, 3), 0.5), [features])
    for one, other in zip(actual, differentiate(by_definition(features, rois, 3, 0.5), [features]), strict=True):
        torch.testing.assert_close(one, other)


def test_boxes_without_an_area_and_no_boxes() -> None:
    features = torch.randn(1, 2, 5, 5)
    with operators("roi_pool", OURS):
        assert ops.roi_pool(features, torch.tensor([[0, 3.0, 3, 1, 1]]), (2, 2)).eq(0).all()
        assert ops.roi_pool(features, torch.zeros(0, 5), (2, 2)).shape == (0, 2, 2, 2)
