"""Classes of timm that need code of their own at other sizes."""

import torch

from adapters.any_size.timm_exceptions import absolute_offsets, join_blocks, split_blocks


def test_blocks_of_an_image() -> None:
    """As timm's NesT does it for squares."""
    from timm.models.nest import blockify, deblockify

    x = torch.randn(2, 12, 12, 5)
    assert torch.equal(split_blocks(x, (3, 3)), blockify(x, 3))
    assert torch.equal(join_blocks(blockify(x, 3), (12, 12), (3, 3)), deblockify(blockify(x, 3), 3))
    x = torch.randn(2, 8, 12, 5)
    assert torch.equal(join_blocks(split_blocks(x, (2, 3)), (8, 12), (2, 3)), x)


def test_absolute_offsets() -> None:
    offsets = absolute_offsets((2, 3))
    assert offsets[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert offsets[5].tolist() == [5, 4, 3, 2, 1, 0]
