"""The metadata of an exported file: how images are made ready for it, its classes, how its outputs are decoded."""

import math
from collections.abc import Mapping
from typing import Any

from mmengine.registry import DATASETS

from adapters.openmmlab.config_tree import Node, type_name
from adapters.openmmlab.export.graphs import Whole, refuse
from adapters.openmmlab.fit.images import images_become
from adapters.openmmlab.fit.pipelines import loaded_order

#: The version of the metadata's form.
FORMAT = 1

#: Outputs by which a choice is checked, beside the choice itself.
CHOICES = ("scores",)

#: Steps of a test pipeline that do not change pixels.
SILENT = ("LoadImage", "LoadAnnotations", "Load", "Pack", "Normalize")


def describe_file(
    cfg: Any, model: Any, whole: Whole, dataset_meta: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Describe an exported model for its metadata.

    Args:
        cfg: its config.
        model: the model.
        whole: its graphs.
        dataset_meta: what the checkpoint says of the data that it was trained on; may be empty.

    Returns:
        The metadata, and notes for the user.

    Raises:
        ValueError: the graph cannot know of the padding that the config asks for.
    """
    images, notes = describe_images(cfg, model)
    images["size_divisor"] = math.lcm(images["size_divisor"], whole.multiple)
    if whole.masks_padding and (images["size_divisor"] != 1 or images["padded_size"]):
        raise refuse(
            type(model).__name__,
            "it masks the padding of its images, of which no graph knows; set "
            "--cfg-options model.data_preprocessor.pad_size_divisor=1, since images of any size need none",
        )
    classes = find_classes(cfg, dataset_meta)
    metadata = {
        "format": FORMAT,
        "task": whole.task,
        "kind": whole.kind,
        "model": type(model).__name__,
        "head": whole.head,
        "graphs": [graph.name for graph in whole.graphs],
        "only_checked": only_checked(whole),
        "classes": classes,
        "images": images,
        "decoding": dict(whole.decoding),
    }
    if not classes:
        notes.append("neither the checkpoint nor the config names the classes: the file says their numbers alone")
    return metadata, notes


def only_checked(whole: Whole) -> list[str]:
    """List the outputs of the first graph that tell of its choices, and that no decoding reads."""
    return [name for name in whole.graphs[0].outputs if name in CHOICES or name in whole.graphs[0].given]


def describe_images(cfg: Any, model: Any) -> tuple[dict[str, Any], list[str]]:
    """Describe how an image becomes what the graph takes; return notes on what cannot be described."""
    node, own = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}, model.data_preprocessor
    _, normalisation = images_become(cfg)
    if normalisation is not None:
        mean, std, order = list(normalisation.mean), list(normalisation.std), normalisation.channel_order
    else:  # of other channels than three
        mean, std, order = list(node.get("mean") or []), list(node.get("std") or []), None
    padding = _test_padding(cfg.default_scope, own)
    steps, unknown = _test_steps(cfg, mean_order=order)
    images = {"mean": mean, "std": std, "channel_order": order, **padding, "test": steps}
    notes = [f"the test pipeline's {name} is not part of the file: do it before" for name in unknown]
    return images, notes


def _test_padding(scope: str, preprocessor: Any) -> dict[str, Any]:
    """Describe the padding that a data preprocessor adds in tests, after it has normalised."""
    if scope == "mmdet":
        divisor, size = getattr(preprocessor, "pad_size_divisor", 1), None
        value = getattr(preprocessor, "pad_value", 0)
    else:
        test = getattr(preprocessor, "test_cfg", None) or {}
        divisor, size = test.get("size_divisor") or 1, test.get("size")
        value = getattr(preprocessor, "pad_val", 0)
    return {
        "size_divisor": int(divisor),
        "padded_size": [int(side) for side in size] if size else None,
        "pad_value": float(value),
    }


def _test_steps(cfg: Any, mean_order: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the resizing and padding of a test pipeline; return it, and the names of steps that are neither."""
    steps: list[dict[str, Any]] = []
    unknown: list[str] = []
    for step in _test_dataset(cfg).get("pipeline") or ():
        name = type_name(step)
        if name == "Resize" and step.get("scale") is not None:
            scale = step["scale"]
            sides = [int(scale)] * 2 if isinstance(scale, int) else [int(side) for side in scale]
            steps.append({"type": "resize", "scale": sides, "keep_ratio": bool(step.get("keep_ratio", False))})
        elif name == "Pad" and step.get("size") and not step.get("pad_to_square"):
            width, height = step["size"]
            steps.append({"type": "pad", "size": [height, width], "value": _fill(step, cfg, mean_order)})
        elif not name.startswith(SILENT):
            unknown.append(name)
    return steps, unknown


def _test_dataset(cfg: Any) -> Node:
    """Return the config of the test data, below wrappers; empty where there is none."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def _fill(step: Node, cfg: Any, order: str | None) -> list[int] | int:
    """Return the colour of a ``Pad``, in the order in which the graph takes channels."""
    value = step.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    if isinstance(value, int | float):
        return int(value)
    colours = [int(part) for part in value]
    return colours if order in (None, loaded_order(cfg)) else colours[::-1]


def find_classes(cfg: Any, dataset_meta: Mapping[str, Any]) -> list[str]:
    """Return the names of a model's classes: the checkpoint's, or the config's, or none."""
    dataset = _test_dataset(cfg)
    known: Any = None
    if dataset:
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            known = registry.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
    for found in (dataset_meta, dataset.get("metainfo") or {}, getattr(known, "METAINFO", {})):
        if found.get("classes"):
            return [str(name) for name in found["classes"]]
    return []
