"""The normalisation of any number of channels, mixed into mmdet's and mmseg's data preprocessors."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import ImgDataPreprocessor


class NormaliseAnyChannels(ImgDataPreprocessor):
    """A mean and a standard deviation for each channel, where mmengine's ``ImgDataPreprocessor`` takes one or three.

    Args:
        mean: of each channel as the loader gives them, or one for all; None does not normalise.
        std: of each channel, likewise.
        bgr_to_rgb: swap the first and the last of three channels.
        rgb_to_bgr: the same, by its other name.
        options: those of the class that this is mixed into.

    Raises:
        ValueError: mean and std do not go together, or a swap is asked for with other than three channels; when images
            come, one has another number of channels.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        **options: Any,
    ) -> None:
        _check(mean, std, bgr_to_rgb or rgb_to_bgr)
        super().__init__(bgr_to_rgb=bgr_to_rgb, rgb_to_bgr=rgb_to_bgr, **options)
        self.channels = len(mean) if mean and len(mean) > 1 else None
        if mean is not None and std is not None:
            for name, values in (("mean", mean), ("std", std)):
                self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
            self._enable_normalize = True

    def forward(self, data: dict[str, Any], training: bool = False) -> Any:
        """Normalise, pad and stack images ``(C, H, W)``, or a batch ``(B, C, H, W)``, as mmdet or mmseg does.

        Args:
            data: ``inputs`` and ``data_samples``, as a data loader collates them.
            training: True for the padding of annotations and the augmentations of batches.

        Raises:
            ValueError: an image has another number of channels than there are means.
        """
        for index, image in enumerate(data["inputs"]):
            if self.channels is not None and image.shape[0] != self.channels:
                samples = data.get("data_samples") or ()
                path = getattr(samples[index], "img_path", None) if index < len(samples) else None
                raise ValueError(
                    f"an image has {image.shape[0]} channels{f' ({path})' if path else ''}, and data_preprocessor.mean "
                    f"has {self.channels} values: give a value for each channel, or load it with "
                    "dict(type='LoadBandsFromFile', bands=[...]), and with its channel_axis where that guesses wrong."
                )
        return super().forward(data, training)


def _check(mean: Sequence[float] | None, std: Sequence[float] | None, swaps: bool) -> None:
    if (mean is None) != (std is None):
        raise ValueError(f"data_preprocessor has mean={mean} and std={std}: give both, or neither.")
    count = 0 if mean is None else len(mean)
    if mean is not None and std is not None:
        if not count or count != len(std):
            raise ValueError(
                f"data_preprocessor has {count} values of mean and {len(std)} of std: give as many of each."
            )
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(
                f"data_preprocessor has mean={list(mean)}, std={list(std)}: std must be above 0, all finite."
            )
    if swaps and count != 3:
        raise ValueError(
            f"data_preprocessor swaps three channels (bgr_to_rgb or rgb_to_bgr) and has {count} values of mean: leave "
            "the swap out, and order mean and std as the loader gives the channels."
        )
