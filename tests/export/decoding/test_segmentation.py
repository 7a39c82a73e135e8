"""Windows over an image, and label maps of one class."""

import numpy as np

from adapters.export.decoding import segmentation


def test_windows_cover_the_image_and_end_with_it() -> None:
    found = list(segmentation.windows((100, 70), [64, 80], [48, 32]))
    assert found == [(slice(0, 64), slice(0, 70)), (slice(36, 100), slice(0, 70))]
    rows, columns = zip(*segmentation.windows((300, 200), [64, 80], [48, 32]), strict=True)
    assert {one.stop - one.start for one in rows} == {64}
    assert max(one.stop for one in columns) == 200


def test_one_class_has_a_threshold() -> None:
    settings = {"align_corners": False, "threshold": 0.7}
    found = segmentation.label(np.float32([[[0.0, 2.0]]]), settings, (1, 2))
    assert found.tolist() == [[0, 1]]
