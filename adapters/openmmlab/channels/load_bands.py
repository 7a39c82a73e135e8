"""A loader of images of any number of channels, multi-band TIFF and .npy, for the pipelines of mmdet and mmseg."""

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from mmengine import fileio

from adapters.preprocessing import WHITE
from adapters.registry import register_transform

#: What tifffile calls axes that are channels for certain: samples of a pixel, and channels. Pages may be anything; an
#: array (H, W, 5) that tifffile itself wrote has H of them.
_NAMED_AXES = "SC"


@register_transform
class LoadBandsFromFile:
    """A transform that reads a multi-band TIFF or an array of numpy's, in the place of ``LoadImageFromFile``.

    Channels come in the order of the file, so that three of them are red, green, blue, where OpenMMLab's other loaders
    give blue first: leave ``bgr_to_rgb`` out. Values are the file's own, and mean and std are for them; with ``white``
    they are for 0 to 255, as those of pretrained weights are.

    Args:
        bands: indices of the channels to take, in this order, from 0; negative ones count from the end. Default: all.
        channel_axis: the axis of the channels. Default: the one that a TIFF names, and where it names none and in a
            ``.npy`` the shorter one of the first and the last.
        white: the value that becomes 255, such as 4095 for 12 bits. Default: values stay as they are.
        to_float32: give bytes as float32, too; all other types are given so anyway.
        backend_args: of mmengine's file backend, for remote files.

    Raises:
        ValueError: ``white`` is not above 0; when a file is read: it is of another type, or no image, or lacks a band.
        ModuleNotFoundError: a TIFF is read and tifffile is not installed.
    """

    def __init__(
        self,
        bands: Sequence[int] | None = None,
        channel_axis: int | None = None,
        white: float | None = None,
        to_float32: bool = False,
        backend_args: Mapping[str, Any] | None = None,
    ) -> None:
        if white is not None and not white > 0:
            raise ValueError(f"white={white!r} must be above 0: the value that becomes 255.")
        self.bands = None if bands is None else list(bands)
        self.channel_axis = channel_axis
        self.white = white
        self.to_float32 = to_float32
        self.backend_args = None if backend_args is None else dict(backend_args)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Read ``results['img_path']``; set ``img``, ``(H, W, C)``, ``img_shape`` and ``ori_shape``, ``(H, W)``."""
        path = results["img_path"]
        image = self._select(self._read(path), path)
        if self.to_float32 or self.white or image.dtype != np.uint8:
            image = image.astype(np.float32)
        if self.white:
            image = image * np.float32(WHITE / self.white)
        results["img"] = np.ascontiguousarray(image)
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        options = ("bands", "channel_axis", "white", "to_float32", "backend_args")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in options)})"

    def _read(self, path: str) -> np.ndarray:
        """Return the array of a file, ``(H, W, C)``."""
        suffix = PurePath(path).suffix.lower()
        if suffix not in (".npy", ".tif", ".tiff"):
            raise ValueError(
                f"LoadBandsFromFile reads .npy, .tif and .tiff, not {path}: photographs are for LoadImageFromFile."
            )
        content = io.BytesIO(fileio.get(path, backend_args=self.backend_args))
        try:
            array, axis = _read_npy(content) if suffix == ".npy" else _read_tiff(content)
        except (ValueError, KeyError, IndexError, EOFError) as error:  # what numpy and tifffile raise at a broken file
            raise ValueError(f"{path} cannot be read: {str(error).split('.')[0]}.") from error
        if array.ndim == 2:
            array, axis = array[..., None], -1
        elif self.channel_axis is not None:
            axis = self.channel_axis
        if array.ndim != 3 or not -3 <= axis < 3 or array.dtype.kind not in "uif" or not array.size:
            raise ValueError(
                f"{path} holds {array.dtype} of shape {array.shape}: an image is (H, W), (H, W, C) or (C, H, W)."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path} holds NaN or infinite values: write a number for missing ones into the file.")
        return np.moveaxis(array, axis, -1)

    def _select(self, image: np.ndarray, path: str) -> np.ndarray:
        if self.bands is None:
            return image
        count = image.shape[-1]
        if missing := [band for band in self.bands if not -count <= band < count]:
            raise ValueError(f"bands={self.bands} asks for {missing}, and {path} has {count}: 0 to {count - 1}.")
        return image[..., self.bands]


def _read_npy(content: io.BytesIO) -> tuple[np.ndarray, int]:
    array = np.load(content, allow_pickle=False)
    return array, _shorter_end(array)


def _read_tiff(content: io.BytesIO) -> tuple[np.ndarray, int]:
    """Return a TIFF's first image, and its axis of channels."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("TIFF files need tifffile: pip install 'dense-adapters[openmmlab]'.") from error
    with tifffile.TiffFile(content) as file:
        array, axes = file.series[0].asarray(), file.series[0].axes
    kept = [index for index, size in enumerate(array.shape) if size > 1 or axes[index] in "YX"]
    array, axes = array.reshape([array.shape[index] for index in kept]), "".join(axes[index] for index in kept)
    return array, next((index for index, axis in enumerate(axes) if axis in _NAMED_AXES), _shorter_end(array))


def _shorter_end(array: np.ndarray) -> int:
    """Guess the axis of the channels: the first where it is shorter than the last, since images have more pixels."""
    return 0 if array.ndim == 3 and array.shape[0] < array.shape[-1] else -1
