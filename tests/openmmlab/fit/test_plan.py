"""Choosing levels: stages by stride, a pyramid or blocks of a token model, and what only a bridge can give."""

import pytest

from adapters.levels import Level
from adapters.openmmlab.fit.plan import Plan, plan_as_asked, plan_levels

STAGES = tuple(Level(64 * 2**i, 4 * 2**i) for i in range(4))
BLOCKS = (Level(192, 16),) * 12
RESNET = tuple(Level(256 * 2**i, 4 * 2**i) for i in range(4))
DILATED = (Level(256, 4), Level(512, 8), Level(1024, 8), Level(2048, 8))


@pytest.mark.parametrize("strides_matter", [False, True])
def test_stages_of_the_strides_that_are_read(strides_matter: bool) -> None:
    plan = plan_levels(STAGES, {1: 8, 3: 32}, RESNET, strides_matter)
    assert plan == Plan({"out_indices": (1, 3)}, {1: 0, 3: 1}, exact=True)


def test_dilated_stages_give_way_to_stages_of_their_depth_where_maps_are_resized_anyway() -> None:
    assert plan_levels(STAGES, {2: 8, 3: 8}, DILATED, False) == Plan({"out_indices": (2, 3)}, {2: 0, 3: 1})
    assert not plan_levels(STAGES, {2: 8, 3: 8}, DILATED, True).exact


def test_stages_that_are_dilated_alike_serve_the_positions_of_their_depth() -> None:
    stages = (Level(64, 2), *DILATED)
    assert plan_levels(stages, {2: 8, 3: 8}, DILATED, True) == Plan({"out_indices": (3, 4)}, {2: 0, 3: 1})
    assert plan_levels(stages, {1: 8}, DILATED, True) == Plan({"out_indices": (2,)}, {1: 0})
    assert plan_levels(stages, {0: 4, 2: 8}, (DILATED[0], *DILATED[2:]), True).options == {"out_indices": (1, 4)}
    assert plan_levels(STAGES, {3: 8}, DILATED, False) == Plan({"out_indices": (3,)}, {3: 0})
    assert not plan_levels(STAGES, {3: 8}, DILATED, True).exact
    assert plan_as_asked(DILATED[2:], {2: 8, 3: 8}, True) == Plan({}, {2: 0, 3: 1})


def test_a_stride_that_no_stage_has_needs_a_bridge() -> None:
    plan = plan_levels(STAGES, {0: 2}, (Level(64, 2),), True)
    assert plan == Plan({"out_indices": (0, 1, 2, 3)}, exact=False)


@pytest.mark.parametrize(("strides_matter", "kind"), [(True, "SimpleFeaturePyramid"), (False, "TapPyramid")])
def test_a_token_model_gets_a_pyramid(strides_matter: bool, kind: str) -> None:
    plan = plan_levels(BLOCKS, {0: 4, 1: 8, 2: 16}, RESNET, strides_matter)
    assert plan.options["pyramid"]["type"] == kind
    assert plan.options["pyramid"]["out_strides"] == (4, 8, 16)
    assert plan.index_of == {0: 0, 1: 1, 2: 2}


def test_a_token_models_last_block_serves_its_own_stride() -> None:
    assert plan_levels(BLOCKS, {2: 16}, RESNET, True) == Plan({"out_indices": (11,)}, {2: 0})


def test_blocks_of_like_depth_stand_for_dilated_stages() -> None:
    assert plan_levels(BLOCKS, {1: 8, 3: 8}, DILATED, False) == Plan({"out_indices": (5, 11)}, {1: 0, 3: 1})


def test_levels_that_were_asked_for_serve_by_stride_then_by_order() -> None:
    assert plan_as_asked(STAGES[1:3], {1: 8, 2: 16}, True).index_of == {1: 0, 2: 1}
    assert plan_as_asked(BLOCKS[:2], {1: 8, 2: 16}, False).index_of == {1: 0, 2: 1}
    assert not plan_as_asked(BLOCKS[:2], {1: 8, 2: 16}, True).exact
