"""Bands of TIFF and .npy files, in every arrangement, as the pipelines of mmdet and mmseg take images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from mmengine.registry import TRANSFORMS

from adapters.openmmlab.channels import LoadBandsFromFile

IMAGE = np.random.default_rng(0).integers(0, 4000, (40, 60, 5)).astype(np.uint16)
PLANES = np.ascontiguousarray(IMAGE.transpose(2, 0, 1))


def load(path: Path, **options: Any) -> dict[str, Any]:
    return TRANSFORMS.build(dict(type="LoadBandsFromFile", **options))({"img_path": str(path)})


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (IMAGE, {}),  # tifffile takes this for 40 pages of 60 x 5
        (PLANES, {}),
        (PLANES, {"photometric": "minisblack", "planarconfig": "separate"}),
        (IMAGE, {"photometric": "minisblack", "planarconfig": "contig", "compression": "deflate"}),
        (IMAGE, {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}),
        (PLANES, {"imagej": True, "metadata": {"axes": "CYX"}}),
    ],
)
def test_bands_of_a_tiff(array: np.ndarray, options: dict[str, Any], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.TIF", array, **options)
    results = load(tmp_path / "a.TIF")
    np.testing.assert_array_equal(results["img"], IMAGE)
    assert results["img"].dtype == np.float32
    assert results["img_shape"] == results["ori_shape"] == (40, 60)


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (IMAGE, PLANES, IMAGE.astype(np.float64), IMAGE.astype(np.int32)):
        np.save(path, array)
        np.testing.assert_array_equal(load(path)["img"], IMAGE)
    np.save(path, IMAGE[..., 0])
    assert load(path)["img"].shape == (40, 60, 1)
    np.save(path, IMAGE[:4])  # four rows, five channels: the guess is wrong
    assert load(path)["img"].shape == (60, 5, 4)
    assert load(path, channel_axis=-1)["img"].shape == (4, 60, 5)
    np.save(path, (IMAGE % 256).astype(np.uint8))
    assert load(path)["img"].dtype == np.uint8
    assert load(path, to_float32=True)["img"].dtype == np.float32


def test_chosen_bands_come_in_the_order_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGE)
    np.testing.assert_array_equal(load(tmp_path / "a.npy", bands=[3, -1, 0])["img"], IMAGE[..., [3, 4, 0]])
    twelve_bits = load(tmp_path / "a.npy", white=4095)["img"]
    np.testing.assert_allclose(twelve_bits, IMAGE / 4095 * 255, rtol=1e-6)
    assert "bands=[1]" in repr(LoadBandsFromFile(bands=[1]))


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"white=0 must be above 0"):
        LoadBandsFromFile(white=0)
    path = tmp_path / "a.npy"
    np.save(path, IMAGE)
    with pytest.raises(ValueError, match=r"bands=\[5\] asks for \[5\], and .* has 5: 0 to 4"):
        load(path, bands=[5])
    for array, message in (
        (np.zeros((2, 3, 4, 5)), r"holds float64 of shape \(2, 3, 4, 5\)"),
        (np.zeros((3, 4), dtype=complex), "holds complex128"),
        (np.full((3, 4), np.nan), "NaN or infinite"),
    ):
        np.save(path, array)
        with pytest.raises(ValueError, match=message):
            load(path)
    np.save(path, np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read"):
        load(path)
    (tmp_path / "b.tif").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.tif cannot be read: not a TIFF file"):
        load(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"reads \.npy, \.tif and \.tiff, not .*c\.jpg"):
        load(tmp_path / "c.jpg")
