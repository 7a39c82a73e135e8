"""The normalisation of a config's images: setting it to what the backbone's weights expect, and comparing the two."""

import copy
import os
import warnings
from collections.abc import Iterator, MutableMapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from adapters.base import BackboneAdapter
from adapters.openmmlab.config_tree import INNER_MODELS, Node, type_name
from adapters.openmmlab.fit.pipelines import (
    find_normalising_step,
    follow_fill,
    leave_normalising_to_the_model,
    loaded_order,
)
from adapters.preprocessing import Normalisation
from adapters.trunk.build import build_without_data

#: Data preprocessors for images of any number of channels, and those that they take the place of.
ANY_CHANNELS = {
    "DetDataPreprocessor": "MultiChannelDetDataPreprocessor",
    "SegDataPreProcessor": "MultiChannelSegDataPreprocessor",
}

#: The data preprocessor for a config that has none.
MISSING: dict[str, dict[str, Any]] = {
    "mmdet": {"type": "DetDataPreprocessor"},
    "mmseg": {"type": "SegDataPreProcessor", "size_divisor": 1, "pad_val": 0, "seg_pad_val": 255},
}

#: Data preprocessors that take mean and std alike, with those that extend them.
KNOWN = ("ImgDataPreprocessor", "SegDataPreProcessor")
#: Data preprocessors whose swap of channels is called ``to_rgb``.
CLASSIFIERS = ("ClsDataPreprocessor", "ReIDDataPreprocessor")

#: Differences that no one sees in a result: levels of 0..255 in the mean, shares of the standard deviation.
SAME_MEAN, SAME_STD = 1.0, 0.02


def follow_weights(cfg: Any, backbone: Node, scope: str) -> list[str]:
    """Set every data preprocessor of a model to the normalisation that the weights of its backbone expect.

    Args:
        cfg: an mmengine ``Config`` whose backbone is an adapter. Changed in place.
        backbone: the config of the adapter.
        scope: ``'mmdet'`` or ``'mmseg'``.

    Returns:
        A line for each change; nothing changes for a backbone that starts at random, but for the type of a
        preprocessor that cannot take its number of channels.

    Raises:
        ValueError: the adapter's options are wrong.
    """
    adapter = _build(backbone)
    wanted, pretrained = adapter.preprocessing, adapter.weights is not None
    lines: list[str] = []
    own = cfg.get("data_preprocessor")  # mmengine's runner takes it where the model has none
    if own and cfg.model.get("data_preprocessor") in (None, own):
        cfg.model.data_preprocessor = own
    places = list(_preprocessors(cfg.model))
    if not places and pretrained:
        cfg.model.data_preprocessor = ConfigDict(**MISSING[scope])
        places = list(_preprocessors(cfg.model))
        lines.append(f"model.data_preprocessor: the config has none, and gets a {MISSING[scope]['type']}")
    order = loaded_order(cfg)
    for place, node in places:
        if not _is_known(node, scope):
            lines.append(
                f"{place}: {type_name(node) or 'no type'} normalises in a way that is not known here, and stays; "
                f"{adapter.model_name} expects {wanted}"
            )
            continue
        former = _values(node)
        if adapter.in_channels != 3 and type_name(node) not in (*ANY_CHANNELS, *ANY_CHANNELS.values()):
            lines.append(f"{place}: {type_name(node)} is for three channels, the backbone takes {adapter.in_channels}")
            continue
        lines += _take_channels(place, node, adapter.in_channels)
        if pretrained and (changed := _write(node, wanted, order)):
            lines += [f"{place}: {changed}, as the weights of {adapter.model_name} expect"]
            lines += follow_fill(cfg, former, wanted, order)
    if pretrained:
        lines += _teachers(cfg, adapter) if lines else []
        lines += leave_normalising_to_the_model(cfg)
    if pretrained and str(adapter.weights) != "timm":
        lines.append(
            f"weights={str(adapter.weights)!r} are taken for trained on the images of {adapter.model_name}: {wanted}; "
            "if not, set model.data_preprocessor"
        )
    return lines


def warn_unfit(cfg: Any, adapter: BackboneAdapter) -> None:
    """Warn, once, if a config's images are normalised for other weights than timm's of its backbone.

    Weights from a file may have been trained on anything; of them nothing is said.

    Args:
        cfg: an mmengine ``Config``. Not changed.
        adapter: its backbone.
    """
    place, given, wanted = *images_become(cfg), adapter.preprocessing
    if str(adapter.weights) != "timm" or given is None or _are_alike(given, wanted):
        return
    if os.environ.get("RANK", "0") == "0":  # one warning, not one of each process
        warnings.warn(
            f"the images are not normalised as the weights of {adapter.model_name} expect:\n"
            f"  {place}: {given}\n"
            f"  weights='timm': {wanted}\n"
            f"Set data_preprocessor=dict(mean={list(wanted.mean)}, std={list(wanted.std)}"
            f"{', bgr_to_rgb=True' if wanted.channel_order else ''}) in the model.",
            stacklevel=2,
        )


def _build(backbone: Node) -> BackboneAdapter:
    return build_without_data(lambda: MODELS.build(copy.deepcopy(backbone)))


def _preprocessors(model: Node, place: str = "model") -> Iterator[tuple[str, Node]]:
    """Yield the data preprocessors of a model and of the detector inside it; of wrapped ones, the innermost."""
    node, where = model.get("data_preprocessor"), f"{place}.data_preprocessor"
    while isinstance(node, MutableMapping) and isinstance(node.get("data_preprocessor"), MutableMapping):
        node, where = node["data_preprocessor"], f"{where}.data_preprocessor"
    if isinstance(node, MutableMapping):
        yield where, node
    for key in INNER_MODELS:
        if isinstance(model.get(key), MutableMapping):
            yield from _preprocessors(model[key], f"{place}.{key}")


def _is_known(node: Node, scope: str) -> bool:
    """Return whether a data preprocessor takes mean and std as mmengine's ``ImgDataPreprocessor`` does.

    mmseg's extends it in the maintained line alone.
    """
    kind = node.get("type")
    if type_name(node) in (*CLASSIFIERS, *ANY_CHANNELS.values()):
        return True
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and not {base.__name__ for base in kind.__mro__}.isdisjoint(KNOWN)


def _take_channels(place: str, node: Node, in_channels: int) -> list[str]:
    """Choose the type that normalises any number of channels where the backbone takes other than three."""
    name = type_name(node)
    if in_channels == 3 or name not in ANY_CHANNELS:
        return []
    node["type"] = ANY_CHANNELS[name]
    for key in ("bgr_to_rgb", "rgb_to_bgr"):
        node.pop(key, None)
    return [
        f"{place}.type: {name} -> {node['type']}, since the backbone takes {in_channels} channels; "
        "LoadBandsFromFile loads such images, with white=... for pixels of 0 to 255"
    ]


def _write(node: Node, wanted: Normalisation, order: str) -> str:
    """Write values into a data preprocessor; return the change, empty if there is none."""
    swap = "to_rgb" if type_name(node) in CLASSIFIERS else "bgr_to_rgb"
    values: dict[str, Any] = {"mean": list(wanted.mean), "std": list(wanted.std)}
    if wanted.channel_order:
        values[swap] = order != wanted.channel_order
    if node.get("rgb_to_bgr"):
        values["rgb_to_bgr"] = False
    for key in ("pad_value", "pad_val"):  # the colour of pads as the images had it; now 0 is the mean
        if node.get(key) and not node.get("mean"):
            values[key] = 0
    changes = [
        f"{key} {node.get(key)} -> {value}" for key, value in values.items() if _plain(node.get(key)) != _plain(value)
    ]
    node.update(values)
    return ", ".join(changes)


def _plain(value: Any) -> Any:
    """Make tuples lists, and what is not set False or None alike, so that only true changes are told."""
    return list(value) if isinstance(value, list | tuple) else value or None


def _values(node: Node) -> Normalisation | None:
    """Return mean and std as they stand in a data preprocessor; None where it does not normalise."""
    return Normalisation(tuple(node["mean"]), tuple(node["std"]), None) if node.get("mean") else None


def images_become(cfg: Any) -> tuple[str, Normalisation | None]:
    """Combine what the pipelines and the data preprocessor do to an image.

    Returns:
        The preprocessor's place in the config, and the values; None where they are not for three channels.
    """
    place, node = next(_preprocessors(cfg.model), ("data_preprocessor", cfg.get("data_preprocessor") or {}))
    mean, std = [0.0] * 3, [1.0] * 3
    order = loaded_order(cfg)
    step = find_normalising_step(cfg)
    steps = [] if step is None else [(step, step.get("to_rgb", True))]
    steps.append((node, any(node.get(key) for key in ("bgr_to_rgb", "rgb_to_bgr", "to_rgb"))))
    for one, swaps in steps:
        means, stds = (list(one.get(key) or default) for key, default in (("mean", [0.0]), ("std", [1.0])))
        means, stds = (values * 3 if len(values) == 1 else values for values in (means, stds))
        if len(means) != 3 or len(stds) != 3:
            return place, None
        if swaps:
            order, mean, std = order[::-1], mean[::-1], std[::-1]
        mean = [m + s * own for m, s, own in zip(mean, std, means, strict=True)]
        std = [s * own for s, own in zip(std, stds, strict=True)]
    return place, Normalisation(tuple(mean), tuple(std), order)


def _are_alike(given: Normalisation, wanted: Normalisation) -> bool:
    if wanted.channel_order is None:
        return True
    means = zip(given.mean, wanted.mean, strict=True)
    stds = zip(given.std, wanted.std, strict=True)
    return (
        given.channel_order == wanted.channel_order
        and all(abs(one - other) <= SAME_MEAN for one, other in means)
        and all(abs(one / other - 1) <= SAME_STD for one, other in stds)
    )


def _teachers(cfg: Any, adapter: BackboneAdapter) -> list[str]:
    """Name the other backbones that see the images, of detectors that learn from another one."""
    return [
        f"model.{key} sees the same images, normalised for {adapter.model_name}"
        for key in ("teacher_backbone", "teacher_config")
        if cfg.model.get(key)
    ]
