"""Deformable attention at free sizes, beside mmcv's own."""

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import nn
from zoo import randomise

from adapters.openmmlab.export.deformable import cell_centres, free_deformable_attention

SIZES = [(5, 7), (3, 4)]


@pytest.mark.parametrize("coordinates", [2, 4])
def test_it_computes_the_same(coordinates: int) -> None:
    own = randomise(MultiScaleDeformableAttention(16, num_heads=4, num_levels=2, num_points=3, batch_first=True)).eval()
    model = nn.Sequential(own)
    free_deformable_attention(model)
    assert model[0] is not own
    query, position, value = torch.randn(2, 9, 16), torch.randn(2, 9, 16), torch.randn(2, 47, 16)
    inputs = dict(query_pos=position, value=value, reference_points=torch.rand(2, 9, 2, coordinates))
    expected = own(query, spatial_shapes=torch.tensor(SIZES), level_start_index=torch.tensor([0, 35]), **inputs)
    torch.testing.assert_close(model[0](query, spatial_shapes=SIZES, level_start_index=None, **inputs), expected)


def test_centres_are_row_by_row() -> None:
    assert cell_centres((1, 2), torch.zeros(1)).tolist() == [[0.25, 0.5], [0.75, 0.5]]
    assert cell_centres((2, 1), torch.zeros(1)).tolist() == [[0.5, 0.25], [0.5, 0.75]]
