"""Settings that hold the channels of a backbone's levels, in necks and heads of several kinds."""

import pytest

from adapters.openmmlab.fit.consumers import find_channel_settings


def test_an_fpn_is_handed_levels_that_it_does_not_read() -> None:
    neck = dict(type="FPN", in_channels=[64, 128, 256], start_level=1)
    (setting,) = find_channel_settings(dict(neck=neck), "model", 3)
    assert (setting.place, setting.key, setting.channels) == ("model.neck", "in_channels", (64, 128, 256))
    assert (setting.positions, setting.read) == ((0, 1, 2), (1, 2))
    assert setting.can_take([1, 2, 3])


def test_a_neck_may_want_the_deepest_level_first() -> None:
    (setting,) = find_channel_settings(dict(neck=dict(type="YOLOV3Neck", in_channels=[3, 2, 1])), "model", 3)
    assert setting.positions == (2, 1, 0)


def test_a_head_of_one_map_and_an_auxiliary_one() -> None:
    owner = dict(
        decode_head=dict(type="FCNHead", in_channels=512, in_index=-1),
        auxiliary_head=[dict(type="FCNHead", in_channels=256, in_index=2, num_convs=0, channels=256)],
    )
    settings = find_channel_settings(owner, "model", 4)
    assert [(s.place, s.key, s.positions, s.index_key) for s in settings] == [
        ("model.decode_head", "in_channels", (3,), "in_index"),
        ("model.auxiliary_head[0]", "in_channels", (2,), "in_index"),
        ("model.auxiliary_head[0]", "channels", (2,), None),
    ]


def test_one_number_stands_for_equal_channels_only() -> None:
    (setting,) = find_channel_settings(dict(rpn_head=dict(type="RPNHead", in_channels=256)), "model", 2)
    assert setting.can_take([7, 7])
    assert not setting.can_take([7, 8])


def test_a_neck_of_fixed_channels_cannot_be_rewritten() -> None:
    (setting,) = find_channel_settings(dict(neck=dict(type="SSDNeck", in_channels=(512, 1024))), "model", 2)
    assert setting.fixed is not None
    assert not setting.can_take([512, 1024])


def test_a_head_that_picks_a_map_too_many() -> None:
    owner = dict(decode_head=dict(type="FCNHead", in_channels=512, in_index=4))
    with pytest.raises(
        ValueError, match=r"model\.decode_head\.in_index=4 picks a map that does not exist: there are 4"
    ):
        find_channel_settings(owner, "model", 4)
