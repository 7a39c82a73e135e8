"""The export of an adapter: its maps from an image of any size."""

import copy
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.export.handing_over import write_verified
from adapters.export.tracing import Freedom
from adapters.export.verification import HALF_TOLERANCE, TOLERANCE, Check, cases_of, make_image

#: The shape that a free export is traced at: two images, and sides that no stride and no window divides.
EXAMPLE = (2, 203, 331)


class HalfPrecision(nn.Module):
    """A copy of a module that computes in float16; what it takes and gives stays float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, image: Tensor) -> Any:
        """Take an image ``(B, C, H, W)``, and return what the module returns, in float32."""
        outputs = self.module(image.half())
        return outputs.float() if torch.is_tensor(outputs) else tuple(output.float() for output in outputs)


def export_backbone(
    adapter: BackboneAdapter,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    half: bool = False,
) -> Check:
    """Write an adapter as a file that gives its maps, verified.

    Args:
        adapter: with its weights; it is not changed.
        path: ends in ``.pt2`` or ``.onnx``.
        size: ``(H, W)`` of the images; None for any.
        batch: images at once; None for any number.
        half: compute in float16.

    Returns:
        The comparison with the adapter, at six sizes or, where the size is given, of six images.

    Raises:
        ValueError: the model cannot be exported in this way, or what was written differs from it.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    if size is None and not adapter.exports_any_size:
        raise ValueError(
            f"{adapter.model_name} cannot be exported with free height and width: timm builds it for one image size, "
            "with tables and indices of that size; give --size H W (size=(H, W)) for a file of one size."
        )
    # Fixed parameters: a program must not hold on to gradients.
    reference = copy.deepcopy(adapter).eval().requires_grad_(False)
    height, width = EXAMPLE[1:] if size is None else size
    example = make_image((batch or EXAMPLE[0], height, width), adapter.in_channels, seed=len(EXAMPLE))
    return write_verified(
        HalfPrecision(reference) if half else reference,
        path,
        example=example,
        names=[f"map{place}" for place in range(len(adapter.levels))],
        cases=cases_of(batch, size),
        freedom=Freedom(batch is None, size is None),
        metadata=describe(adapter),
        name=adapter.model_name,
        tolerance=HALF_TOLERANCE if half else TOLERANCE,
        reference=reference,
    )


def describe(adapter: BackboneAdapter) -> dict[str, Any]:
    """Describe an adapter for those who run its file: the normalisation of images (0 to 255), and its levels."""
    fed = adapter.preprocessing
    return {
        "model_name": adapter.model_name,
        "channels": [level.channels for level in adapter.levels],
        "strides": [level.stride for level in adapter.levels],
        "mean": list(fed.mean),
        "std": list(fed.std),
        "channel_order": fed.channel_order,
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
