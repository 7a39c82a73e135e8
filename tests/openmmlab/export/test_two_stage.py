"""Boxes read from all levels and chosen, beside mmdet's extractor, which gathers them first."""

import torch
from mmdet.models import SingleRoIExtractor

from adapters.openmmlab.export.two_stage import RoiFeatures


def test_boxes_are_read_from_the_level_of_their_size() -> None:
    layer = dict(type="RoIAlign", output_size=3, sampling_ratio=0)
    extractor = SingleRoIExtractor(layer, out_channels=2, featmap_strides=[4, 8, 16], finest_scale=28)
    maps = tuple(torch.randn(2, 2, 160 // stride, 240 // stride) for stride in (4, 8, 16))
    sides = torch.tensor([4.0, 30, 57, 80, 113, 150, 0])
    rois = torch.stack([torch.arange(7) % 2, sides / 9, sides / 7, sides / 9 + sides, sides / 7 + sides], 1)
    assert set(extractor.map_roi_levels(rois, 3).tolist()) == {0, 1, 2}
    torch.testing.assert_close(RoiFeatures(extractor)(maps, rois), extractor(maps, rois))
