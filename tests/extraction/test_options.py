"""Options: wrong ones are refused; threads follow pixels."""

from typing import Any

import pytest

from adapters.extraction import options
from adapters.extraction.options import STREAMS, ExtractionOptions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outputs": ("maps",)}, "outputs='maps' must be one or more of pyramid, embedding, top5, cls, registers"),
        ({"outputs": ()}, "must be one or more"),
        ({"size": (1, 2, 3)}, r"size=\(1, 2, 3\) must be one side"),
        ({"size": "large"}, "size='large' must be one side"),
        ({"batch_size": 0}, "batch_size=0 must be more than 0"),
        ({"max_pixels": 0}, "max_pixels=0 must be more than 0"),
    ],
    ids=str,
)
def test_wrong_options(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractionOptions(**fields)


def test_threads_are_in_proportion_to_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = STREAMS * 8192
    monkeypatch.setattr(options, "BATCH_PIXELS", pixels)
    found = ExtractionOptions(threads=8)
    share = found.batch_pixels
    assert share == pixels // STREAMS
    assert [found.threads_of(count) for count in (1, share, share + 1, 3 * share, 4 * share, 99 * share)] == [
        *(2, 2, 4, 6, 8, 8)
    ]
    assert ExtractionOptions(threads=2).threads_of(share) == 1
    on_gpu = ExtractionOptions(threads=8, device="cuda:1")
    assert (on_gpu.streams, on_gpu.batch_pixels, on_gpu.threads_of(1)) == (1, pixels, 8)
