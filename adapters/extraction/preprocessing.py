"""Preprocessing: an image becomes the normalised tensor that a model was trained on, by timm's data config."""

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
from adapters.extraction.stored import Pixels, Size
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
        cls,
        pretrained_cfg: Mapping[str, Any],
        size: tuple[int, ...] | str | None,
        channels: int = 3,
        **overrides: Any,
    ) -> "Preprocessing":
        """Read the data config of a timm model.

        Args:
            pretrained_cfg: timm's.
            size: as in :class:`~adapters.extraction.options.ExtractionOptions`.
            channels: bands of the model's images; :class:`Normalisation` gives each a mean and a deviation.
            overrides: fields that a detection config decides instead.

        Raises:
            ValueError: the overrides normalise another number of bands.
        """
        config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
        fields = {key: config[key] for key in ("interpolation", "crop_pct", "crop_mode")}
        fields["mean"], fields["std"] = Normalisation.of_timm(pretrained_cfg, channels).of_unit_pixels()
        fields = {**fields, "native_size": tuple(config["input_size"][1:]), "size": size, **overrides}
        if len(fields["mean"]) != channels or len(fields["std"]) != channels:
            raise ValueError(
                f"mean {fields['mean']} and std {fields['std']} normalise {len(fields['mean'])} bands, and the model "
                f"takes {channels}: give one for each."
            )
        return cls(**fields)

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

    def scale(self, pixels: Pixels) -> Tensor:
        """Scale an image.

        Args:
            pixels: ``(H, W, C)`` of 0..255, bytes or fp32.

        Returns:
            ``(C, H, W)`` of :meth:`fed_size`, of the same type and range.
        """
        height, width = self.fed_size((pixels.shape[0], pixels.shape[1]))
        if self.size != NATIVE and pixels.shape[:2] == (height, width):
            return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        fill = self.mean[::-1] if self.bgr else self.mean
        # Pillow scales bytes of RGB at once, and everything else band by band, with the same result.
        if pixels.dtype == np.uint8 and len(fill) == 3:
            return self._scale_part(Image.fromarray(pixels), (height, width), fill)
        parts = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(pixels, 2, 0)]
        scaled = torch.cat(
            [self._scale_part(part, (height, width), fill[band : band + 1]) for band, part in enumerate(parts)]
        )
        # Bicubic scaling overshoots.
        return scaled if scaled.dtype == torch.uint8 else scaled.clamp_(0, 255)

    def _scale_part(self, image: Image.Image, size: Size, fill: tuple[float, ...]) -> Tensor:
        """Scale an image of Pillow's to ``(C, H, W)``; the borders that some models' own crop adds are ``fill``."""
        if self.size == NATIVE:
            pixels: Tensor = create_transform(
                input_size=(3, *self.native_size),
                interpolation=self.interpolation,
                crop_pct=self.crop_pct,
                crop_mode=self.crop_mode,
                mean=fill,
                normalize=False,
            )(image)
            return pixels
        scaled = np.array(image.resize((size[1], size[0]), str_to_pil_interp(self.interpolation)))
        return torch.from_numpy(scaled[None] if scaled.ndim == 2 else scaled.transpose(2, 0, 1))

    def normalise(self, pixels: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Normalise a batch, on its device.

        Args:
            pixels: ``(B, C, H, W)`` of 0..255, bytes or fp32, red first.
            sizes: height and width of each image; its pads, right and below, become zero.

        Returns:
            ``(B, C, H, W)``, fp32, as the model takes it.
        """
        batch = (pixels.flip(1) if self.bgr else pixels).to(torch.float32, copy=True).div_(255)
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        batch.sub_(mean).div_(std)
        for image, (height, width) in zip(batch, sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return batch
