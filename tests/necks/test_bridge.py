"""``LevelBridge``: maps of asked-for channels and strides from other levels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adapters.necks.bridge import LevelBridge


def test_bridge_adds_what_is_as_coarse_or_coarser() -> None:
    torch.manual_seed(0)
    bridge = LevelBridge([4, 6], [8, 16], [5, 7, 3], [8, 16, 32])
    maps = torch.rand(2, 4, 9, 6), torch.rand(2, 6, 5, 3)
    outputs = bridge(maps)
    fine, deep, pooled = (path[0] for path in (bridge.paths[1], bridge.paths[2], bridge.paths[3]))
    up = F.interpolate(F.conv2d(maps[1], fine.weight, fine.bias), scale_factor=2, mode="bilinear", align_corners=False)
    own = F.conv2d(maps[0], bridge.paths[0][0].weight, bridge.paths[0][0].bias)
    torch.testing.assert_close(outputs[0], own + up[..., :9, :6])
    torch.testing.assert_close(outputs[1], F.conv2d(maps[1], deep.weight, deep.bias))
    assert outputs[2].shape == (2, 3, 3, 2)  # the coarsest level, taken down to stride 32
    assert pooled.in_channels == 6
    assert isinstance(LevelBridge([5, 6], [8, 16], [5], [8]).paths[0][0], nn.Conv2d)  # of several, each has its own
    assert [(level.channels, level.stride) for level in bridge.levels] == [(5, 8), (7, 16), (3, 32)]
    sum(output.sum() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in bridge.parameters())


def test_bridge_passes_on_what_fits_and_serves_special_heads() -> None:
    maps = (torch.rand(2, 4, 8, 8),)
    (output,) = LevelBridge([4], [16], [4], [16])(maps)
    assert torch.equal(output, maps[0])
    bridge = LevelBridge([4], [16], [4, 6], [16, 16], single_in_eval=1)
    assert [tuple(output.shape) for output in bridge(maps)] == [(2, 4, 8, 8), (2, 6, 8, 8)]
    assert bridge.eval()(maps).shape == (2, 6, 8, 8)
    ((output, token),) = LevelBridge([4], [16], [4], [16], class_tokens=True)(maps)
    torch.testing.assert_close(token, output.flatten(2).mean(-1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([4], [8, 16], [4], [8]), r"one stride per level: in_channels=\(4,\) and in_strides=\(8, 16\)"),
        (([], [], [4], [8]), "at least 1"),
        (([4, 4], [16, 8], [4], [8]), r"in_strides=\(16, 8\) must not decrease"),
        (([4], [8], [4], [8], 1), r"single_in_eval=1 must be 0\.\.0"),
    ],
)
def test_bridge_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelBridge(*arguments)


def test_bridge_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match=r"got maps of \(5,\) channels but its in_channels are \(4,\)"):
        LevelBridge([4], [8], [4], [8])((torch.rand(1, 5, 4, 4),))
