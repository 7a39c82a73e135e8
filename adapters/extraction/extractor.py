"""The model of an extraction, run on batches."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from adapters.base import BackboneAdapter
from adapters.batches import batch_sizes
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.preprocessing import Preprocessing
from adapters.extraction.read_image import ImageReader
from adapters.extraction.vectors import vectors_of
from adapters.levels import Level


@dataclass
class BatchFeatures:
    """Maps and vectors of a batch.

    Attributes:
        maps: one per level, ``(B, C, h, w)`` of the padded batch; none if the pyramid is not asked for.
        vectors: those of :func:`~adapters.extraction.vectors.vectors_of`, as far as asked for.
        finite: ``(B, levels)``, whether an image's map holds neither NaN nor infinity.
    """

    maps: tuple[Tensor, ...]
    vectors: dict[str, Tensor]
    finite: Tensor

    def to_cpu(self) -> "BatchFeatures":
        """The same on the CPU."""
        vectors = {key: vector.cpu() for key, vector in self.vectors.items()}
        return BatchFeatures(tuple(m.cpu() for m in self.maps), vectors, self.finite.cpu())

    def of_image(self, place: int, size: tuple[int, int], levels: Sequence[Level]) -> dict[str, Tensor]:
        """One image's tensors, on the CPU: ``level0`` .. ``(C, ceil(H / s), ceil(W / s))``, and the vectors.

        Args:
            place: of the image in the batch.
            size: height and width of the image as fed, before padding.
            levels: of the maps.
        """
        tensors = {}
        for index, (feature_map, level) in enumerate(zip(self.maps, levels, strict=False)):
            height, width = (-(-side // level.stride) for side in size)
            tensors[f"level{index}"] = _contiguous(feature_map[place, :, :height, :width])
        return {**tensors, **{key: vector[place] for key, vector in self.vectors.items()}}


def _contiguous(view: Tensor) -> Tensor:
    """A contiguous tensor, copied by the calling thread alone: torch would wake those that the next batch runs on."""
    if view.is_contiguous():
        return view
    if view.dtype == torch.bfloat16:  # which numpy has not
        return torch.from_numpy(np.array(view.view(torch.int16).numpy(), order="C")).view(torch.bfloat16)
    return torch.from_numpy(np.array(view.numpy(), order="C"))


class Extractor:
    """A model in eval mode with its preprocessing; called on batches.

    Args:
        adapter: the model; built with ``keep_head=True`` where vectors are wanted.
        preprocessing: of its images.
        options: of the extraction.
        name: of the model, for records.
    """

    def __init__(
        self, adapter: BackboneAdapter, preprocessing: Preprocessing, options: ExtractionOptions, name: str
    ) -> None:
        self.adapter = adapter.eval()
        self.preprocessing = preprocessing
        self.options = options
        self.reader = ImageReader(adapter.in_channels, options.max_decoded, options.tones)
        self.name = name
        self.levels = adapter.levels if "pyramid" in options.outputs else ()
        subset = infer_imagenet_subset(adapter.trunk) if "top5" in options.outputs else None
        self.classes = ImageNetInfo(subset).label_descriptions() if subset is not None else None
        self.device = torch.device(options.device)

    @property
    def pad_multiple(self) -> int:
        """Images whose sides round up to the same multiples can share a batch without a change to their maps."""
        return self.adapter.pad_multiple

    def prepare(self) -> "Extractor":
        """Move the model to its device."""
        try:
            self.adapter.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device={self.options.device!r} cannot be used here: {error}") from error
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> BatchFeatures:
        """Features of a batch, on the model's device; several threads may call it at once.

        Args:
            pixels: ``(B, C, H, W)`` of 0..255, bytes or fp32, ``H`` and ``W`` multiples of :attr:`pad_multiple`.
            sizes: height and width of each image; the rest of its place is padding.
        """
        batch = self.preprocessing.normalise(pixels.to(self.device, non_blocking=True), sizes)
        kept = torch.float32
        if self.options.amp:
            kept = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        autocast = torch.autocast(self.device.type, kept) if self.options.amp else nullcontext()
        with autocast, self._steady_kernels():
            maps, vectors = self._run(batch)
            maps = tuple(m.to(kept) for m in maps) if self.levels else ()
            # A sum is finite where all its terms are, and takes one pass.
            sums = [m.sum(dim=(1, 2, 3), dtype=torch.float32) for m in maps]
            finite = torch.stack(sums, dim=1).isfinite() if sums else torch.ones(len(pixels), 0, dtype=torch.bool)
        return BatchFeatures(maps, vectors, finite)

    def _steady_kernels(self) -> AbstractContextManager[None]:
        """Have cuDNN choose the same kernels in every run."""
        if self.device.type != "cuda":
            return nullcontext()
        tf32 = torch.backends.cudnn.allow_tf32
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32)

    def _run(self, batch: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Run the model on ``(B, C, H, W)``: the maps, and the vectors that are asked for, all from one pass."""
        if not self.options.needs_head:
            with batch_sizes(
                others_are_whole=True
            ):  # the images of a batch are already such that none sees its padding
                return self.adapter(batch), {}
        maps, final = self.adapter.forward_with_head(batch)
        return maps, vectors_of(self.adapter.trunk, final, self.options.outputs)

    def fingerprint(self) -> str:
        """SHA-256 of all weights: two models of one fingerprint compute the same."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.adapter.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
