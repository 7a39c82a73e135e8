"""``batch_padding='exact'`` of a backbone in a config: the model that gets such a backbone tells it the images' sizes.

The sizes are the ``img_shape`` of the data samples, before any padding. They are at hand in ``loss``, ``predict`` and
``_forward`` of mmdet's and mmseg's models, one of which is called wherever a model runs: by a runner, inside another
model (semi-supervised, distillation), by test-time augmentation. So the model's class becomes one of the same name that
extends these three, as torch's own parametrisations do. In their calls necks and heads pass over what lies beyond an
image, where they can (:mod:`adapters.openmmlab.own_cells`). Predictions are made for images of equal padded size
together, with the padding that each would have alone, so that the other layers see nothing else either.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from adapters.base import BackboneAdapter
from adapters.batches import Sizes, batch_sizes, check_sizes
from adapters.openmmlab.config_tree import Node, find_owner
from adapters.openmmlab.own_cells import own_cells

#: The keys of samples for the size that images were padded to, and mmseg's for the padding: left, right, top, bottom.
_PADDED_KEYS = ("batch_input_shape", "pad_shape")
_PADDING_KEYS = ("img_padding_size", "padding_size")


class ExactBatches:
    """Methods of a model with ``batch_padding='exact'`` in its backbone, before those of its own class."""

    def loss(self, inputs: Any, data_samples: Any, *arguments: Any, **options: Any) -> Any:
        """Compute the losses of images ``(B, C, H, W)``, or of several batches by name, with their sizes known."""
        model: Any = super()
        this: Any = self
        with batch_sizes(*_batches(inputs, data_samples)), own_cells(this):
            return model.loss(inputs, data_samples, *arguments, **options)

    def _forward(self, inputs: Any, data_samples: Any = None, *arguments: Any, **options: Any) -> Any:
        model: Any = super()
        this: Any = self
        with batch_sizes(*_batches(inputs, data_samples), others_are_whole=data_samples is None), own_cells(this):
            return model._forward(inputs, data_samples, *arguments, **options)

    def predict(self, inputs: Any, data_samples: Any = None, *arguments: Any, **options: Any) -> Any:
        """Predict images ``(B, C, H, W)`` as each would be alone, those of equal padded size together.

        Other tensors that the backbone gets, such as the windows of a sliding inference, are images of their own.

        Raises:
            ValueError: an ``img_shape`` is larger than the batch.
        """
        model: Any = super()
        this: Any = self
        sizes = _read_sizes(inputs, data_samples)
        others_are_whole = sizes is not None or data_samples is None

        def run(images: Any, samples: Any) -> Any:
            with batch_sizes(*_batches(images, samples), others_are_whole=others_are_whole), own_cells(this):
                return model.predict(images, samples, *arguments, **options)

        if sizes is None:
            return run(inputs, data_samples)
        padded = [padded_size(sample, size, inputs, self) for sample, size in zip(data_samples, sizes, strict=True)]
        results: dict[int, Any] = {}
        for height, width in dict.fromkeys(padded):
            indices = [index for index, size in enumerate(padded) if size == (height, width)]
            images = inputs if len(indices) == len(inputs) else inputs[indices]
            samples = [data_samples[index] for index in indices]
            with _samples_of_size(samples, [sizes[index] for index in indices], (height, width)):
                results.update(zip(indices, run(images[:, :, :height, :width], samples), strict=True))
        return [results[index] for index in range(len(inputs))]

    def val_step(self, data: Any) -> list[Any]:
        """Predict a batch of a data loader, whose images may be of several sizes in mmseg, too."""
        model: Any = super()
        return self._step(model.val_step, data)

    def test_step(self, data: Any) -> list[Any]:
        """Predict a batch of a data loader, whose images may be of several sizes in mmseg, too."""
        model: Any = super()
        return self._step(model.test_step, data)

    def _step(self, step: Any, data: Any) -> list[Any]:
        """Take a step for each size of images, where mmseg's preprocessor refuses to put several into a batch."""
        images = data.get("inputs") if isinstance(data, Mapping) else None
        pads = not hasattr(getattr(self, "data_preprocessor", None), "test_cfg")  # mmdet's does, mmseg's does not
        if pads or not isinstance(images, Sequence) or len({image.shape for image in images}) <= 1:
            return step(data)
        results: dict[int, Any] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            indices = [index for index, image in enumerate(images) if image.shape == shape]
            group = {key: [values[index] for index in indices] for key, values in data.items()}
            results.update(zip(indices, step(group), strict=True))
        return [results[index] for index in range(len(images))]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the model's own class, since this one has no name in a module."""
        return _new_exact, (type(self).__mro__[2],), *super().__reduce_ex__(protocol)[2:]


@functools.cache
def exact_class(cls: Any) -> Any:
    """Return the class of the same name that extends a model's class by :class:`ExactBatches`."""
    return type(cls)(cls.__name__, (ExactBatches, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _new_exact(cls: type) -> Any:
    exact = exact_class(cls)
    return exact.__new__(exact)


def extend_owner(owner: nn.Module, name: str, child: nn.Module | None) -> None:  # noqa: ARG001, torch's signature
    """Extend the model that gets an exact backbone, or a model with one; torch calls it for each new child."""
    is_exact = isinstance(child, ExactBatches) or (isinstance(child, BackboneAdapter) and bool(child.batch_padding))
    if is_exact and isinstance(owner, BaseModel) and hasattr(owner, "loss") and not isinstance(owner, ExactBatches):
        cls: Any = type(owner)
        owner.__class__ = exact_class(cls)


register_module_module_registration_hook(extend_owner)


def describe_batch_padding(model: Node) -> str:
    """Say what a model's config asks for, and what it costs; empty where padding is part of the image."""
    try:
        backbones = find_owner(model)[0]["backbone"]
    except ValueError:
        return ""
    backbones = backbones if isinstance(backbones, list) else [backbones]
    if not any(isinstance(backbone, Mapping) and backbone.get("batch_padding") for backbone in backbones):
        return ""
    return "exact: the backbone makes one pass for each size to which the images of a batch are padded alone"


def _batches(inputs: Any, data_samples: Any) -> list[tuple[Tensor, Sizes]]:
    """Pair tensors of images with their sizes, also in dictionaries by name; pass over what has none."""
    if isinstance(inputs, Mapping) and isinstance(data_samples, Mapping):
        return [pair for name in inputs for pair in _batches(inputs[name], data_samples.get(name))]
    sizes = _read_sizes(inputs, data_samples)
    return [] if sizes is None else [(inputs, sizes)]


def _read_sizes(inputs: Any, data_samples: Any) -> list[tuple[int, int]] | None:
    """Return the sizes of a batch of images, or None for what is none: dictionaries, videos, a call without samples.

    Raises:
        ValueError: a sample does not say its size, or the sizes are not within the batch.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not isinstance(data_samples, Sequence):
        return None
    shapes = [getattr(sample, "img_shape", None) for sample in data_samples]
    if None in shapes:
        raise ValueError(
            "batch_padding='exact' needs img_shape in each data sample: add it to meta_keys of the pipeline's "
            "PackDetInputs or PackSegInputs."
        )
    return check_sizes([tuple(shape[:2]) for shape in shapes if shape], inputs)


def padded_size(sample: Any, size: tuple[int, int], images: Tensor, model: Any) -> tuple[int, int]:
    """Return ``(H, W)`` to which an image of a batch ``(B, C, H, W)`` would be padded if it were alone.

    Args:
        sample: of mmdet, which says so in ``pad_shape``, or of mmseg, whose preprocessor pads to a size or a divisor.
        size: of the image.
        images: the batch.
        model: of mmdet or mmseg.
    """
    largest = (images.shape[-2], images.shape[-1])
    if "batch_input_shape" in sample:
        padded = sample.pad_shape[:2]
    else:
        settings = getattr(model.data_preprocessor, "test_cfg", None) or {}
        divisor = settings.get("size_divisor") or 1
        padded = largest if settings.get("size") else [-(-side // divisor) * divisor for side in size]
    height, width = (min(max(sides[0], sides[1]), sides[2]) for sides in zip(size, padded, largest, strict=True))
    return int(height), int(width)


@contextmanager
def _samples_of_size(samples: Sequence[Any], sizes: Sizes, padded: tuple[int, int]) -> Iterator[None]:
    """Have the samples say for the time of a call that their images were padded to this size, and no further."""
    before = [dict(sample.metainfo) for sample in samples]
    for sample, (height, width), meta in zip(samples, sizes, before, strict=True):
        padding = (0, padded[1] - width, 0, padded[0] - height)
        told = dict.fromkeys(_PADDED_KEYS, padded) | dict.fromkeys(_PADDING_KEYS, padding)
        sample.set_metainfo({key: value for key, value in told.items() if key in meta})
    try:
        yield
    finally:
        for sample, meta in zip(samples, before, strict=True):
            sample.set_metainfo({key: meta[key] for key in (*_PADDED_KEYS, *_PADDING_KEYS) if key in meta})
