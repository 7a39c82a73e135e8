"""The options of an extraction: all that its results depend on beside the images and the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from adapters.extraction.tones import Tones

OUTPUTS = ("pyramid", "embedding", "top5", "cls", "registers")
NATIVE = "native"

#: Pixels that are computed at once, so that large images come in smaller batches: 8 images of 1024 x 1024.
BATCH_PIXELS = 8 * 1024 * 1024

#: Batches that a CPU computes at once at most. Each has at most its share of the pixels, or is one larger image.
STREAMS = 4


@dataclass(frozen=True)
class ExtractionOptions:
    """The way in which images are fed, and the outputs that are kept.

    Attributes:
        outputs: one or more of ``'pyramid'``, ``'embedding'``, ``'top5'``, and of token models that have them ``'cls'``
            and ``'registers'``.
        size: None feeds an image at its own size; ``(N,)`` scales its shorter side to N pixels; ``(H, W)`` scales it to
            that size, whatever its aspect; ``'native'`` is the model's own evaluation: resize and central crop.
        batch_size: images of a batch at most; fewer where they are large (``BATCH_PIXELS``).
        white: the value that is white in images of more than 8 bits, such as 4095 for 12-bit data in 16-bit files; None
            takes 65535 for 16 bits and 1 for floating point.
        black: the value that is black there.
        percentiles: in place of both, two percentiles of each image's values, such as ``(1, 99)``.
        max_pixels: megapixels of an image as it is fed; a larger one is not extracted.
        max_decoded: megapixels of an image as it is stored; a larger one is not even decoded.
        amp: autocast, to bfloat16 on the CPU and fp16 on a GPU; maps are kept in that dtype.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``.
        threads: CPU threads of all batches that are computed at once; see :meth:`threads_of`.

    Raises:
        ValueError: a value that is not allowed.
    """

    outputs: tuple[str, ...] = ("pyramid",)
    size: tuple[int, ...] | str | None = None
    white: float | None = None
    black: float = 0.0
    percentiles: tuple[float, float] | None = None
    batch_size: int = 8
    max_pixels: float = 25.0
    max_decoded: float = 200.0
    amp: bool = False
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self) -> None:
        unknown = [output for output in self.outputs if output not in OUTPUTS]
        if unknown or not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise ValueError(
                f"outputs={','.join(self.outputs)!r} must be one or more of {', '.join(OUTPUTS)}, each once."
            )
        if self.size not in (None, NATIVE) and not _is_size(self.size):
            raise ValueError(
                f"size={self.size!r} must be one side (N,), which the shorter side is scaled to, a height and a width "
                f"(H, W), {NATIVE!r} for the model's own resize and crop, or None for each image's own size."
            )
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device={self.device!r} must be one of torch's, such as 'cpu' or 'cuda:1'.") from error
        for name in ("batch_size", "threads", "max_pixels", "max_decoded"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be more than 0.")
        _ = self.tones  # checks its values

    @property
    def tones(self) -> Tones:
        """The scale of the images' values.

        Raises:
            ValueError: ``white``, ``black`` or ``percentiles`` is not allowed.
        """
        return Tones(self.black, self.white, self.percentiles)

    @property
    def streams(self) -> int:
        """Number of batches that are computed at once at most; a GPU takes one after the other."""
        return STREAMS if torch.device(self.device).type == "cpu" else 1

    @property
    def batch_pixels(self) -> int:
        """Number of pixels of a batch of several images at most."""
        return BATCH_PIXELS // self.streams

    def threads_of(self, pixels: int) -> int:
        """Return the number of threads that compute a batch of ``pixels`` pixels.

        A large image has more threads than a batch of small ones, in proportion, so that together with what else is
        computed at once it takes no more memory than alone on all of them. The number can change the last bits of a
        result, so it depends on the options and the batch, not on how many cores there are.
        """
        shares = min(self.streams, -(-pixels // self.batch_pixels))
        return -(-self.threads * shares // self.streams)

    @property
    def vectors(self) -> tuple[str, ...]:
        """The outputs that are vectors, which come from the model's last features through its own norm and head."""
        return tuple(output for output in self.outputs if output != "pyramid")

    @property
    def needs_head(self) -> bool:
        """True if the model's own last norm, pooling and classifier take part."""
        return bool(self.vectors)


def _is_size(size: object) -> bool:
    return (
        isinstance(size, Sequence)
        and not isinstance(size, str)
        and len(size) in (1, 2)
        and all(isinstance(side, int) and side > 0 for side in size)
    )
