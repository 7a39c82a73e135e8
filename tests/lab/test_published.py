"""Published parameters and FLOPs: the recipes counted as published, and the page of them."""

import pytest
from lab.published import FLOP_TOLERANCE, PARAMETER_TOLERANCE, Comparison, compare_published
from lab.published_page import COMMAND, PAGE, page


@pytest.fixture(scope="session")
def comparisons() -> list[Comparison]:
    return compare_published()


def test_published_parameters(comparisons: list[Comparison]) -> None:
    """All 24 models, in 1x and 3x where both exist; 21 of them agree to the digits that are published."""
    models = {comparison.recipe.replace("_3x_", "_1x_"): comparison for comparison in comparisons}
    assert len(models) == 24
    for comparison in comparisons:
        assert abs(comparison.parameter_difference) <= PARAMETER_TOLERANCE, comparison
        assert comparison.parameters > comparison.ours.parameters / 1e6 + 0.5
    close = [c for c in models.values() if abs(c.parameters - c.published_parameters) < 0.06]
    assert len(close) >= 21


def test_published_flops(comparisons: list[Comparison]) -> None:
    for comparison in comparisons:
        if comparison.flop_difference is None:
            continue
        assert abs(comparison.flop_difference) <= FLOP_TOLERANCE, comparison


def test_the_page_of_published_counts_is_current(comparisons: list[Comparison]) -> None:
    assert PAGE.read_text() == page(comparisons), f"run `{COMMAND}`"
