"""A search for the padding with which a trunk's maps have every cell that their strides promise, in the right place.

Most trunks want a multiple of their deepest stride, or of their windows, and then every map of stride ``s`` has one
cell for each ``s`` pixels. Trunks with unpadded convolutions (Inception, PiT's patches) lose cells at the borders: at
``n`` pixels a map has ``floor((n - span) / stride) + 1`` cells, the first of them centred at ``(span - 1) / 2``. These
get margins before and after the image, and the cells that lie in the margin are skipped.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from adapters.levels import Level

#: Windows and grids that models partition their deepest maps into; images are padded to such a multiple of the stride.
#: After these come the parts of the image that the model was built for.
WINDOW_SIDES = (1, 2, 4, 7, 8, 10, 12, 14, 16)

#: In deepest strides: an image at which any trunk has maps of several cells.
LARGE = 12

#: Errors that models raise at sizes that they cannot take.
EXPECTED_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError)

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Padding, in pixels, and what it adds to the maps.

    Attributes:
        multiple: images are padded, right and bottom, to a multiple of this.
        before: then by this much at the left and at the top,
        after: and by this much more at the right and at the bottom.
        skips: the first cells of each map, in both directions, that lie in the margin.
    """

    multiple: int
    before: int = 0
    after: int = 0
    skips: tuple[int, ...] = ()

    def __str__(self) -> str:
        margins = f" and margins of {self.before} and {self.after}" if self.before or self.after else ""
        return f"a multiple of {self.multiple}{margins}"


class NoGeometryError(Exception):
    """No padding gives the maps that the levels promise; says why."""


def find_geometry(
    run: Callable[[Size], Sequence[Tensor]], levels: Sequence[Level], deepest: int, native: Size
) -> Geometry:
    """Find the smallest multiple at which a trunk gives true maps of any image, or margins where there is none.

    Args:
        run: gives the trunk's maps, ``(1, C, h, w)`` each, for an image of ``(H, W)``.
        levels: channels and strides that the maps are said to have.
        deepest: the largest stride of the whole trunk.
        native: ``(H, W)`` that the trunk was built for.

    Raises:
        NoGeometryError: neither exists.
    """
    reason = None
    for side in (*WINDOW_SIDES, *_native_sides(deepest, native)):
        multiple = deepest * side
        sizes = ((2 * multiple, 3 * multiple), (multiple, multiple))
        mismatches = (f"at {size[0]} x {size[1]} {why}" for size in sizes if (why := mismatch_at(run, levels, size)))
        mismatch = next(mismatches, None)
        if mismatch is None:
            return Geometry(multiple)
        if reason is None:
            reason = mismatch
            if (geometry := _with_margins(run, levels, deepest)) is not None:
                return geometry
    raise NoGeometryError(reason)


def _native_sides(deepest: int, native: Size) -> list[int]:
    """List the sides, in deepest strides, that divide the native size and are no usual window.

    CrossViT gives its second branch a smaller image, at 408 pixels 16/17 of it, so that it fits both branches' patches
    at multiples of 204 alone.
    """
    cells, rest = divmod(math.gcd(*native), deepest)
    return [side for side in range(1, cells + 1) if rest == 0 and cells % side == 0 and side not in WINDOW_SIDES]


def mismatch_at(run: Callable[[Size], Sequence[Tensor]], levels: Sequence[Level], size: Size) -> str | None:
    """Say what is wrong with the maps, ``(1, C, h, w)``, of an image of ``size``; None if ``levels`` is right."""
    try:
        maps = run(size)
    except EXPECTED_ERRORS as error:
        return f"it fails there with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for index, (feature_map, level) in enumerate(zip(maps, levels, strict=True)):
        expected = (1, level.channels, *(-(-side // level.stride) for side in size))
        if tuple(feature_map.shape) != expected:
            return f"map {index} is {tuple(feature_map.shape)} where stride {level.stride} means {expected}"
    return None


def _with_margins(run: Callable[[Size], Sequence[Tensor]], levels: Sequence[Level], deepest: int) -> Geometry | None:
    """Find margins for a trunk whose maps lack cells at the borders; None where something else is wrong with it."""
    large = LARGE * deepest
    count_at = functools.cache(lambda side: _count(run, levels, side))
    counts = count_at(large)
    if counts is None or any(
        not 0 <= large // level.stride - count <= LARGE // 2 * deepest // level.stride
        for count, level in zip(counts, levels, strict=True)
    ):
        return None
    if all(count >= large // level.stride for count, level in zip(counts, levels, strict=True)):
        return None
    spans = _receptive_spans(count_at, counts, levels, large)
    if spans is None:
        return None
    before = min(range(deepest * 2), key=lambda margin: (round(_misplacement(margin, levels, spans), 1), margin))
    if _misplacement(0, levels, spans) <= 0.5:
        before = 0
    skips = tuple(_skip(before, level, span) for level, span in zip(levels, spans, strict=True))
    after = max(
        0,
        *(
            span - level.stride + level.stride * skip - before
            for level, span, skip in zip(levels, spans, skips, strict=True)
        ),
    )
    geometry = Geometry(deepest, before, after, skips)
    covers = all(_covers(run, levels, geometry, size) for size in ((2 * deepest, 3 * deepest), (deepest, deepest)))
    return geometry if covers else None


def _receptive_spans(
    count_at: Callable[[int], list[int] | None], counts: Sequence[int], levels: Sequence[Level], large: int
) -> list[int] | None:
    """Find, by bisection, the pixels that the first cell of each map needs; None if the trunk fails at some size.

    Args:
        count_at: counts the cells along one side of each map at a side in pixels.
        counts: the cells at ``large``.
        levels: channels and strides of the maps.
        large: a side in pixels at which every map has several cells.
    """
    spans = []
    for position, (level, count) in enumerate(zip(levels, counts, strict=True)):
        low, high = large - level.stride, large  # the fewest pixels with as many cells lie in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            at_middle = count_at(middle)
            if at_middle is None:
                return None
            low, high = (middle, high) if at_middle[position] < count else (low, middle)
        spans.append(high - level.stride * (count - 1))
    return spans


def _covers(run: Callable[[Size], Sequence[Tensor]], levels: Sequence[Level], geometry: Geometry, size: Size) -> bool:
    """Tell whether the maps of an image of ``size``, with its margins, have every cell once the first are skipped."""
    margin = geometry.before + geometry.after
    try:
        maps = run((size[0] + margin, size[1] + margin))
    except EXPECTED_ERRORS:
        return False
    return all(
        have - skip >= side // level.stride
        for feature_map, level, skip in zip(maps, levels, geometry.skips, strict=True)
        for have, side in zip(feature_map.shape[-2:], size, strict=True)
    )


def _count(run: Callable[[Size], Sequence[Tensor]], levels: Sequence[Level], side: int) -> list[int] | None:
    """Count the cells along one side of each map of a square image; None if the trunk fails or has other channels."""
    try:
        maps = run((side, side))
    except EXPECTED_ERRORS:
        return None
    if any(m.ndim != 4 or m.shape[1] != level.channels for m, level in zip(maps, levels, strict=True)):
        return None
    return [m.shape[-1] for m in maps]


def _misplacement(before: int, levels: Sequence[Level], spans: Sequence[int]) -> float:
    """Measure how far, in cells, the first kept cell of a map lies from the middle of its pixels, at worst."""
    return max(
        abs(_centre_gap(before, level, span) + level.stride * _skip(before, level, span)) / level.stride
        for level, span in zip(levels, spans, strict=True)
    )


def _centre_gap(before: int, level: Level, span: int) -> float:
    """Measure, in pixels, how far the centre of the first cell lies from where it must be."""
    return (span - 1) / 2 - before - (level.stride - 1) / 2


def _skip(before: int, level: Level, span: int) -> int:
    return max(0, round(-_centre_gap(before, level, span) / level.stride))
