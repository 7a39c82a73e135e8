"""Building the wrapped timm model: names, the arguments that adapters own, and what timm has to offer."""

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import timm
import torch
from timm.models import list_models, model_entrypoint
from torch import nn

from adapters.trunk.dilation import OUTPUT_STRIDE, build_dilated
from adapters.trunk.hosted_models import create_timm_model, hosted_model
from adapters.trunk.norm_acts import keep_activations

T = TypeVar("T")

#: What an adapter decides, and the keyword of ours that decides it.
OWNED_ARGUMENTS: dict[str, str] = {
    "in_chans": "in_channels=...",
    "drop_path_rate": "drop_path_rate=... of the adapter",
    "pretrained": "weights='timm'",
    "pretrained_cfg": "a tag in the name, model_name='name.tag'",
    "pretrained_cfg_overlay": "weights='path/to/checkpoint'",
    "checkpoint_path": "weights='path/to/checkpoint'",
    "features_only": "nothing: an adapter always returns feature maps",
    "out_indices": "out_indices=... of the adapter",
    "num_classes": "nothing: the classifier is removed",
    "global_pool": "nothing: the classifier is removed",
    "img_size": "nothing: every size is accepted at each call",
    "dynamic_img_size": "nothing: every size is accepted at each call",
    "dynamic_img_pad": "nothing: padding.py pads",
    "strict_img_size": "nothing: every size is accepted at each call",
    "patch_drop_rate": "nothing: a map cannot lack tokens",
    "scriptable": "nothing",
    "exportable": "nothing",
}


def split_tag(model_name: str) -> tuple[str, str]:
    """Split ``'twins_svt_small.in1k'`` into ``('twins_svt_small', 'in1k')``; the tag may be empty.

    The name of a hosted model (``'local-dir:FOLDER'``) has no tag.
    """
    if ":" in model_name:
        return model_name, ""
    name, _, tag = model_name.partition(".")
    return name, tag


def check_model_name(model_name: str) -> None:
    """Check a timm model name, with or without the tag of its weights, or that of a hosted model.

    Raises:
        ValueError: timm has no such model, or the model has no such tag; the nearest names are listed. Or a hosted
            model cannot be found, or is none of timm's.
    """
    if not isinstance(model_name, str):
        raise ValueError(f"model_name={model_name!r} must be a string such as 'twins_svt_small'.")
    if hosted_model(model_name) is not None:
        return
    name, tag = split_tag(model_name)
    if not timm.is_model(name):
        known = list_models()
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or [m for m in known if name[:4] in m][:5]
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(
            f"timm {timm.__version__} has no model named {name!r}.{hint} "
            "`timm.list_models('*pattern*')` lists all of them."
        )
    tags = [full.split(".", 1)[1] for full in timm.list_pretrained(f"{name}.*") if full.split(".", 1)[0] == name]
    if tag and tag not in tags and not timm.models.is_model_pretrained(model_name):
        raise ValueError(f"{name} has no weights tagged {tag!r}; its tags: {', '.join(tags) or 'none'}.")


def timm_module_name(model_name: str) -> str:
    """The timm file that a model comes from, such as ``'twins'`` or ``'vision_transformer'``."""
    hosted = hosted_model(model_name)
    name = split_tag(model_name)[0] if hosted is None else hosted.architecture
    return model_entrypoint(name).__module__.rsplit(".", 1)[-1]


def check_trunk_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of ``timm.create_model`` that the adapter itself decides.

    Raises:
        ValueError: an owned argument, with the keyword to use instead.
    """
    for key in arguments:
        if key in OWNED_ARGUMENTS:
            raise ValueError(
                f"trunk={dict(arguments)!r} sets {key!r}, which the adapter owns; use {OWNED_ARGUMENTS[key]}."
            )


def build_trunk(
    model_name: str, in_channels: int, drop_path_rate: float, trunk: Mapping[str, Any], sizing: Mapping[str, Any]
) -> nn.Module:
    """Build a timm model at random, without touching the network or a file.

    Args:
        model_name: any timm name, checked already.
        in_channels: channels of the image.
        drop_path_rate: the largest rate of stochastic depth.
        trunk: extra arguments of the user's for ``timm.create_model``.
        sizing: arguments that make the model take any image size (``dynamic_img_size=True`` and the like).

    Raises:
        ValueError: timm refuses an argument or a value; its reason is passed on.
    """
    # Named even when it is zero: some models have another default.
    arguments = dict(trunk, in_chans=in_channels, drop_path_rate=drop_path_rate)
    create = functools.partial(_create, model_name, sizing)
    model = build_dilated(create, model_name, arguments) if OUTPUT_STRIDE in trunk else create(arguments)
    keep_activations(model)
    return model


def _create(model_name: str, sizing: Mapping[str, Any], own_arguments: Mapping[str, Any]) -> nn.Module:
    arguments = {**own_arguments, **sizing}
    try:
        try:
            return create_timm_model(model_name, pretrained=False, **arguments)
        except TypeError as error:
            if arguments["drop_path_rate"] or "'drop_path_rate'" not in str(error):
                raise
            del arguments["drop_path_rate"]
            return create_timm_model(model_name, pretrained=False, **arguments)
    except TypeError as error:
        refused = next((key for key in arguments if repr(key) in str(error)), None)
        if refused is None:
            raise
        if refused in sizing:
            raise UnsupportedSizingError(refused) from error
        raise ValueError(
            f"timm's {model_name} takes no {refused!r} (given {arguments[refused]!r}); "
            "leave it out of the adapter's arguments."
        ) from error


class UnsupportedSizingError(TypeError):
    """The model's class in timm does not know one of the arguments that make the image size free."""


def build_without_data(build: Callable[[], T]) -> T:
    """Build a module on the meta device, or for real where its code computes with values.

    What looks like a user's mistake on the meta device may be that there are no values, so that a ``ValueError`` is
    raised only if building for real raises it, too.

    Args:
        build: makes the module; it may be called twice.
    """
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        # torch's errors for .item() on the meta device, and numpy's where it is given such a tensor.
        return build()
