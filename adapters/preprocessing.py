"""The values by which a model's weights expect their images normalised, as timm records them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from timm.data import resolve_data_config

#: The largest value of a pixel as OpenMMLab's pipelines and 8-bit files have it; timm's values are for pixels of 0..1.
WHITE = 255


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of images, pixels of 0..255: ``(pixel - mean) / std``, channel by channel.

    Attributes:
        mean: mean of each channel, in the order in which the model takes them.
        std: standard deviation of each, likewise.
        channel_order: ``'RGB'`` or ``'BGR'``; None where the image has other channels than these three.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str | None = "RGB"

    @classmethod
    def of_timm(cls, pretrained_cfg: Mapping[str, Any], in_channels: int = 3) -> "Normalisation":
        """Read the normalisation of a timm model's weights; ImageNet's where timm does not say.

        timm makes the weights of the first convolution for other channels from those of the weights' own: one channel
        gets their sum, and so the average of their values; more get them in turns, R, G, B, R, ..., and so the values
        in the same turns.

        Args:
            pretrained_cfg: timm's record of the model and tag.
            in_channels: channels of the image.
        """
        config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
        mean, std = (_for_channels(config[key], in_channels) for key in ("mean", "std"))
        return cls(mean, std, "RGB" if in_channels == 3 else None)

    def of_unit_pixels(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of pixels of 0..1, timm's own numbers."""
        return _divided(self.mean), _divided(self.std)

    def __str__(self) -> str:
        count = len(self.mean)
        order = f", {self.channel_order}" if self.channel_order else f", {count} channel{'s'[: count > 1]}"
        return f"mean {_format(self.mean)}, std {_format(self.std)}{order}"


def _for_channels(values: Sequence[float], in_channels: int) -> tuple[float, ...]:
    """Scale to pixels of 0..255, and give each channel its value; rounded, so that 0.485 becomes 123.675."""
    if in_channels == 1:
        values = [fmean(values)]
    return tuple(round(values[channel % len(values)] * WHITE, 6) for channel in range(in_channels))


def _divided(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value / WHITE, 8) for value in values)


def _format(values: Sequence[float]) -> str:
    """Write ``[123.675, 116.28, 103.53]``, with three digits at most."""
    return f"[{', '.join(f'{round(value, 3):g}' for value in values)}]"
