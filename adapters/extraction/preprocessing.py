"""Preprocessing: an RGB image becomes the normalised tensor that a model was trained on, by timm's data config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.transforms import str_to_pil_interp
from torch import Tensor

from adapters.extraction.options import NATIVE
from adapters.extraction.read_image import Size
from adapters.preprocessing import Normalisation


@dataclass(frozen=True)
class Preprocessing:
    """The scaling and normalisation of a model's images.

    Attributes:
        mean: mean of each channel, in the order in which the model takes them, for pixels of 0..1.
        std: standard deviation of each, likewise.
        interpolation: timm's name, such as ``'bicubic'``.
        native_size: height and width at which the model was trained.
        crop_pct: share of the image that the model's own evaluation crops, which ``size='native'`` follows.
        crop_mode: timm's name of the way in which it crops.
        bgr: True for a model that takes blue first.
        size: as in :class:`~adapters.extraction.options.ExtractionOptions`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    native_size: Size
    crop_pct: float
    crop_mode: str
    bgr: bool = False
    size: tuple[int, ...] | str | None = None

    @classmethod
    def of_model(
        cls, pretrained_cfg: Mapping[str, Any], size: tuple[int, ...] | str | None, **overrides: Any
    ) -> "Preprocessing":
        """Read the data config of a timm model; ``overrides`` are fields that a detection config decides instead."""
        config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
        fields = {key: config[key] for key in ("interpolation", "crop_pct", "crop_mode")}
        fields["mean"], fields["std"] = Normalisation.of_timm(pretrained_cfg).of_unit_pixels()
        return cls(**{**fields, "native_size": tuple(config["input_size"][1:]), "size": size, **overrides})

    def fed_size(self, original: Size) -> Size:
        """Return height and width of the tensor that an image of size ``original`` becomes."""
        if self.size is None:
            return original
        if self.size == NATIVE:
            return self.native_size
        assert not isinstance(self.size, str)
        if len(self.size) == 2:
            return (self.size[0], self.size[1])
        shorter, (height, width) = self.size[0], original
        scale = shorter / min(height, width)
        return (shorter, round(width * scale)) if height <= width else (round(height * scale), shorter)

    def scale(self, image: Image.Image) -> Tensor:
        """Scale an RGB image to bytes ``(3, H, W)`` of :meth:`fed_size`, red first."""
        height, width = self.fed_size((image.height, image.width))
        if self.size == NATIVE:
            pixels: Tensor = create_transform(
                input_size=(3, *self.native_size),
                interpolation=self.interpolation,
                crop_pct=self.crop_pct,
                crop_mode=self.crop_mode,
                normalize=False,
            )(image)
            return pixels
        if (image.height, image.width) != (height, width):
            image = image.resize((width, height), str_to_pil_interp(self.interpolation))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def normalise(self, pixels: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Normalise a batch, on its device.

        Args:
            pixels: bytes ``(B, 3, H, W)``, red first.
            sizes: height and width of each image; its pads, right and below, become zero.

        Returns:
            ``(B, 3, H, W)``, fp32, as the model takes it.
        """
        batch = (pixels.flip(1) if self.bgr else pixels).float().div_(255)
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        batch.sub_(mean).div_(std)
        for image, (height, width) in zip(batch, sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return batch
