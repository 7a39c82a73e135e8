"""A model that was exported, as a function from images to detections or label maps."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import dense, queries, segmentation, two_stage
from .boxes import Array, float32
from .images import fit, prepare

#: A graph: arrays by the names of its inputs -> arrays by the names of its outputs.
Run = Callable[[dict[str, Array]], dict[str, Array]]


class Model:
    """An exported detector or segmentor.

    Args:
        metadata: of the export; see docs/export.md.
        graphs: the graphs by name: ``model``, and of a two-stage detector ``boxes`` and ``masks``, too.
    """

    def __init__(self, metadata: dict[str, Any], graphs: dict[str, Run]) -> None:
        self.metadata = metadata
        self.graphs = graphs
        self.classes: list[str] = metadata["classes"]

    def __call__(self, image: Array, resize: bool = True) -> dict[str, Array]:
        """Predict an image.

        Args:
            image: ``(H, W, C)``, of pixels 0 to 255, the channels in the order of ``metadata["images"]``.
            resize: to the size at which the config tests; else the image is taken as it is.

        Returns:
            What :meth:`predict` returns, for the image as it was given.
        """
        given = (image.shape[0], image.shape[1])
        return self.predict([fit(image, self.metadata["images"]) if resize else image], given)[0]

    def predict(self, images: Sequence[Array], original: tuple[int, int] | None = None) -> list[dict[str, Array]]:
        """Predict images of one size in a batch, as they are.

        Args:
            images: ``(H, W, C)`` each.
            original: ``(H, W)`` of the images before they were resized; boxes, masks and maps are for that.

        Returns:
            For each image, of a detector ``boxes`` ``(N, 4)`` (x and y of two corners), ``scores`` ``(N,)``, ``labels``
            ``(N,)``, the best first, and where it has them ``masks`` ``(N, H, W)`` and ``panoptic`` ``(H, W)``; of a
            segmentor ``label_map`` ``(H, W)``.
        """
        size = (images[0].shape[0], images[0].shape[1])
        batch = prepare(images, self.metadata["images"])
        decode = getattr(self, f"_{self.metadata['kind']}")
        return decode(batch, size, original or size)

    def _run(self, graph: str, **inputs: Array) -> dict[str, Array]:
        return self.graphs[graph](inputs)

    def _run_rois(self, graph: str, boxes: Sequence[Array], maps: dict[str, Array]) -> dict[str, Array]:
        """Run a graph of the second stage on the boxes ``(N_i, 4)`` of each image, put together to ``(N, 5)``.

        One box more is run and forgotten, since there may be none.
        """
        numbers = np.repeat(np.arange(len(boxes)), [len(some) for some in boxes])
        rois = np.concatenate([numbers[:, None], np.concatenate(boxes)], 1)
        more = np.array([[0, 0, 0, 1, 1]])
        outputs = self._run(graph, rois=np.concatenate([rois, more]).astype(np.float32), **maps)
        return {name: output[:-1] for name, output in outputs.items()}

    def _dense(self, batch: Array, size: tuple[int, int], original: tuple[int, int]) -> list[dict[str, Array]]:
        outputs = self._run("model", image=batch)
        settings = self.metadata["decoding"]
        return [
            dense.decode_dense(levels, settings, size, _scale(size, original))
            for levels in _by_image(outputs, settings["outputs"], len(batch))
        ]

    def _two_stage(self, batch: Array, size: tuple[int, int], original: tuple[int, int]) -> list[dict[str, Array]]:
        settings = self.metadata["decoding"]
        outputs = self._run("model", image=batch)
        maps = {name: outputs[name] for name in settings["maps"]}
        levels = _by_image(outputs, settings["rpn"]["outputs"], len(batch))
        rois = [dense.propose(of_image, settings["rpn"], size) for of_image in levels]
        second = self._run_rois("boxes", rois, maps)
        ends = np.cumsum([len(some) for some in rois])[:-1]
        scale = _scale(size, original)
        parts = zip(rois, np.split(second["classes"], ends), np.split(second["deltas"], ends), strict=True)
        has_masks = settings["mask_threshold"] is not None
        found = [
            two_stage.decode_rois(*part, settings["second"], size, (1.0, 1.0) if has_masks else scale) for part in parts
        ]
        if has_masks:
            logits = self._run_rois("masks", [one["boxes"] for one in found], maps)["masks"]
            ends = np.cumsum([len(one["boxes"]) for one in found])[:-1]
            for one, own in zip(found, np.split(logits, ends), strict=True):
                one["boxes"] = one["boxes"] / float32([*scale, *scale])
                one["masks"] = two_stage.paste_masks(
                    own, one["boxes"], one["labels"], settings["mask_threshold"], original
                )
        return found

    def _query_boxes(self, batch: Array, size: tuple[int, int], original: tuple[int, int]) -> list[dict[str, Array]]:
        outputs = self._run("model", image=batch)
        return [
            queries.decode_boxes(*pair, self.metadata["decoding"], size, _scale(size, original))
            for pair in zip(outputs["classes"], outputs["boxes"], strict=True)
        ]

    def _query_masks(self, batch: Array, size: tuple[int, int], original: tuple[int, int]) -> list[dict[str, Array]]:
        outputs = self._run("model", image=batch)
        padded = (batch.shape[2], batch.shape[3])
        return [
            queries.decode_masks(*pair, self.metadata["decoding"], padded, size, original)
            for pair in zip(outputs["classes"], outputs["masks"], strict=True)
        ]

    def _label_map(self, batch: Array, size: tuple[int, int], original: tuple[int, int]) -> list[dict[str, Array]]:
        maps = segmentation.segment(lambda images: self._run("model", image=images), batch, self.metadata, size)
        return [{"label_map": segmentation.label(one, self.metadata["decoding"], original)} for one in maps]


def load(path: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",), **options: Any) -> Model:
    """Open an exported ONNX file, and of a two-stage detector those beside it.

    Args:
        path: of the file.
        providers: of onnxruntime.
        options: of onnxruntime's ``InferenceSession``, such as ``sess_options``.

    Raises:
        ValueError: the file has no metadata of an exported detector or segmentor.
    """
    import onnxruntime

    def open_graph(file: Path) -> Any:
        return onnxruntime.InferenceSession(str(file), providers=list(providers), **options)

    file = Path(path)
    first = open_graph(file)
    metadata = {key: json.loads(text) for key, text in first.get_modelmeta().custom_metadata_map.items()}
    if "decoding" not in metadata:
        raise ValueError(
            f"{file} is no exported detector or segmentor: its metadata say nothing of decoding. A backbone has "
            "nothing to decode; run it with onnxruntime itself."
        )
    others = {name: open_graph(file.with_name(f"{file.stem}.{name}.onnx")) for name in metadata["graphs"][1:]}
    unread = metadata["only_checked"]
    return Model(metadata, {name: _runner(session, unread) for name, session in {"model": first, **others}.items()})


def _runner(session: Any, unread: Sequence[str]) -> Run:
    names = [output.name for output in session.get_outputs() if output.name not in unread]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _by_image(outputs: dict[str, Array], names: list[list[str]], count: int) -> list[list[list[Array]]]:
    """Sort the outputs of a dense head, each with a name at its level, by image."""
    return [[[outputs[name][image] for name in level] for level in names] for image in range(count)]


def _scale(size: tuple[int, int], original: tuple[int, int]) -> tuple[float, float]:
    """Return by how much an image is larger than the original, along x and along y."""
    return size[1] / original[1], size[0] / original[0]
