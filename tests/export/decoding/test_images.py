"""Images and maps in numpy beside torch, OpenCV and the data preprocessors of mmdet and mmseg."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adapters.export.decoding import images

SETTINGS = {
    "mean": [10.0, 20.0, 30.0],
    "std": [1.0, 2.0, 4.0],
    "pad_value": 3.0,
    "size_divisor": 32,
    "padded_size": None,
}


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(31, 77), (5, 3), (1, 1), (13, 9)])
def test_maps_are_resized_as_by_torch(size: tuple[int, int], align_corners: bool) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 13, 9)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=align_corners)[
        0
    ].numpy()
    np.testing.assert_allclose(images.resize(maps, size, align_corners), expected, atol=1e-5)


def test_an_image_is_made_to_fit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    steps = [
        {"type": "resize", "scale": [160, 80], "keep_ratio": True},
        {"type": "pad", "size": [128, 144], "value": [1, 2, 3]},
    ]
    fitted = images.fit(image, {"test": steps})
    assert fitted.shape == (128, 144, 3)
    expected = cv2.resize(image, (133, 80), interpolation=cv2.INTER_LINEAR)
    assert np.abs(fitted[:80, :133].astype(int) - expected).max() <= 1
    assert (fitted[80:] == [1, 2, 3]).all()
    assert images.fit(image, {"test": [{**steps[0], "keep_ratio": False}]}).shape == (80, 160, 3)


def test_a_batch_is_normalised_and_then_padded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 33, 3), dtype=np.uint8)
    batch = images.prepare([image, image], SETTINGS)
    assert batch.shape == (2, 3, 64, 64)
    np.testing.assert_allclose(batch[1, 1, :40, :33], (image[..., 1] - 20.0) / 2.0)
    assert (batch[..., 40:, :] == 3).all()
    assert (batch[..., 33:] == 3).all()
    assert images.prepare([image], {**SETTINGS, "padded_size": [50, 20]}).shape == (1, 3, 50, 33)
    assert np.array_equal(images.prepare([image], {**SETTINGS, "mean": []})[0, 2, :40, :33], image[..., 2])
