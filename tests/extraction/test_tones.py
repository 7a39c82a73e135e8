"""Tones: values of any type become 0..255, by their type, a white that is given, or percentiles; or are refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.extraction.stored import UnreadableImageError
from adapters.extraction.tones import Tones

RAMP = np.linspace(0, 1, 12).reshape(3, 4, 1)


@pytest.mark.parametrize(("kind", "white"), [("uint16", 65535), (">u2", 65535), ("float16", 1), ("float64", 1)])
def test_white_by_type(kind: str, white: float) -> None:
    pixels = (RAMP * white).astype(kind)
    toned = Tones().scale(pixels)
    assert toned.pixels.dtype == np.float32
    np.testing.assert_allclose(toned.pixels, pixels.astype(float) / white * 255, rtol=1e-6)
    assert toned.note() is None


def test_bytes_stay_and_truth_is_black_and_white() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert Tones(white=4095.0).scale(pixels).pixels is pixels
    assert np.array_equal(Tones().scale(pixels > 99).pixels, np.where(pixels > 99, 255, 0))


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint32", "int64", "float32"])
def test_a_given_white(kind: str) -> None:
    """Exact in every type that can hold it, and what lies beyond is clipped."""
    pixels = np.array([[[0], [1], [2047], [4095], [5000]]], dtype=kind)
    found = Tones(white=4095.0).scale(pixels).pixels[0, :, 0]
    np.testing.assert_allclose(found, [0, 255 / 4095, 2047 * 255 / 4095, 255, 255], rtol=1e-6)


def test_black_and_white_are_a_window() -> None:
    pixels = np.array([[[-1000], [-200], [0], [600], [3000]]], dtype=np.int16)
    found = Tones(-200.0, 600.0).scale(pixels).pixels[0, :, 0]
    np.testing.assert_allclose(found, [0, 0, 63.75, 255, 255])


def test_percentiles_are_those_of_each_image() -> None:
    rng = np.random.default_rng(0)
    for pixels in (rng.integers(0, 40, (50, 60, 3), dtype=np.uint8), rng.normal(7, 3, (50, 60, 2))):
        low, high = np.percentile(pixels, (2, 98))
        expected = ((pixels - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(Tones(percentiles=(2.0, 98.0)).scale(pixels).pixels, expected, atol=1e-3)
    constant = Tones(percentiles=(1.0, 99.0)).scale(np.full((2, 2, 1), 7, np.uint16))
    assert (constant.pixels == 0).all()
    assert constant.note() == "dark: all its pixels are 7"


@pytest.mark.parametrize(
    ("pixels", "tones", "note"),
    [
        (np.uint16([[[4095]]]), Tones(), "dark: the maximum is 4095 of 65535"),
        (np.uint16([[[8191]]]), Tones(), "dark: the maximum is 8191 of 65535"),
        (np.uint16([[[8192]]]), Tones(), None),
        (np.uint8([[[31]]]), Tones(), "dark: the maximum is 31 of 255"),
        (np.uint8([[[32]]]), Tones(), None),
        (np.float32([[[0.1]]]), Tones(), "dark: the maximum is 0.1 of 1"),
        (np.uint16([[[511]]]), Tones(white=4095.0), "dark: the maximum is 511 of 4095"),
        (np.uint16([[[1023]]]), Tones(white=4095.0), None),
    ],
    ids=str,
)
def test_dark_images_are_noted(pixels: NDArray[Any], tones: Tones, note: str | None) -> None:
    assert tones.scale(pixels).note() == note


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.int16([[[-5, 9]]]), "int16 pixels of -5 to 9, whose white is not known: give --white N"),
        (np.int64([[[0, 255]]]), "int64 pixels of 0 to 255, whose white is not known"),
        (np.float32([[[0, 255]]]), r"float32 pixels of 0 to 255, which are outside 0\.\.1: give --white N"),
        (np.float32([[[-2, 2]]]), r"which are outside 0\.\.1"),
        (np.float32([[[0, np.nan]]]), "NaN or infinity"),
        (np.complex64([[[1]]]), "complex64 pixels; real numbers are read"),
    ],
    ids=str,
)
def test_values_that_may_mean_anything_are_refused(pixels: NDArray[Any], reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        Tones().scale(pixels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"white": 0.0}, "white=0 must be a number above black, which is 0"),
        ({"white": float("nan")}, "white=nan must be a number"),
        ({"white": "4095"}, "white='4095' must be a number"),
        ({"percentiles": "1,99"}, "percentiles='1,99' must be a number, or two for percentiles"),
        ({"black": 3.0}, r"black=3 needs white="),
        ({"percentiles": (99.0, 1.0)}, "must be two of 0 to 100, the lower first"),
        ({"percentiles": (1.0, 101.0)}, "must be two of 0 to 100"),
        ({"percentiles": (1.0, 99.0), "white": 5.0}, "leave out white and black"),
    ],
    ids=str,
)
def test_wrong_tones(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tones(**arguments)
