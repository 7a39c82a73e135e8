"""The steps of a config's data pipelines that know how its images are normalised, or in which order channels come."""

from collections.abc import Iterator
from typing import Any

from adapters.openmmlab.config_tree import Node, children, type_name
from adapters.preprocessing import Normalisation

#: Loaders that give channels in the order of the file, red first; all others give blue first.
RED_FIRST_LOADERS = ("LoadBandsFromFile", "LoadMultipleRSImageFromFile", "LoadSingleRSImageFromFile")

#: mmcv's decoder that leaves channels as they are.
RED_FIRST_DECODER = "tifffile"

#: Steps of mmdet, mmseg and mmcv that work on three channels of colour only.
COLOUR_STEPS = ("PhotoMetricDistortion", "YOLOXHSVRandomAug", "CLAHE", "Color", "RGB2Gray")


def check_colour_steps(cfg: Any, in_channels: int) -> None:
    """Check that pipelines for images of other than three channels have no steps that work on colours.

    Args:
        cfg: an mmengine ``Config``.
        in_channels: channels that the backbone takes.

    Raises:
        ValueError: they have.
    """
    found = [type_name(step) for steps in pipelines(cfg) for step in steps if type_name(step) in COLOUR_STEPS]
    if found and in_channels != 3:
        raise ValueError(
            f"model.backbone.in_channels={in_channels}, and {', '.join(dict.fromkeys(found))} work on the three "
            "channels of a colour image only: take them out of the pipelines."
        )


def loaded_order(cfg: Any) -> str:
    """Return the order in which a config's pipelines load channels, ``'RGB'`` or ``'BGR'``, by their first loader."""
    for steps in pipelines(cfg):
        for step in steps:
            name = type_name(step)
            if name in RED_FIRST_LOADERS or step.get("imdecode_backend") == RED_FIRST_DECODER:
                return "RGB"
            if name.startswith("LoadImage"):
                return "BGR"
    return "BGR"


def pipelines(cfg: Any) -> Iterator[list[Node]]:
    """Yield every list of steps outside a config's model: pipelines, their branches, those that hooks switch to."""
    for key, node in cfg.items():
        if key != "model":
            yield from _lists_of_steps(node)


def _lists_of_steps(node: Any) -> Iterator[list[Node]]:
    if isinstance(node, list) and node and all(type_name(step) for step in node):
        yield node
    for child in children(node):
        yield from _lists_of_steps(child)


def find_normalising_step(cfg: Any) -> Node | None:
    """Return the first ``Normalize`` of a config's pipelines, which mmdet's and mmseg's own have no more."""
    return next((step for steps in pipelines(cfg) for step in steps if type_name(step) == "Normalize"), None)


def leave_normalising_to_the_model(cfg: Any) -> list[str]:
    """Remove ``Normalize`` from every pipeline, in place, since the data preprocessor does it; return a note."""
    count = 0
    for steps in pipelines(cfg):
        kept = [step for step in steps if type_name(step) != "Normalize"]
        count += len(steps) - len(kept)
        steps[:] = kept
    return [f"pipelines: {count} Normalize left out, since model.data_preprocessor normalises"] if count else []


def follow_fill(cfg: Any, former: Normalisation | None, new: Normalisation, order: str) -> list[str]:
    """Have steps that fill borders with the mean colour (``Expand``, ``RandomCenterCropPad``) fill with the new one.

    Args:
        cfg: changed in place.
        former: the data preprocessor's values before; steps with another mean fill with a colour of their own.
        new: its values now.
        order: of the channels as they are loaded.

    Returns:
        A note where something changed.
    """
    changed: dict[str, int] = {}
    for steps in pipelines(cfg):
        for step in steps:
            mean = step.get("mean")
            if former is None or mean is None or "to_rgb" not in step or tuple(mean) != former.mean:
                continue
            values = {"mean": list(new.mean), "std": list(new.std), "to_rgb": order != new.channel_order}
            values = {key: value for key, value in values.items() if key in step}
            if any(step[key] != value for key, value in values.items()):
                step.update(values)
                changed[type_name(step)] = changed.get(type_name(step), 0) + 1
    return [f"pipelines: {count} {name} fill with the mean colour {list(new.mean)}" for name, count in changed.items()]
