"""The layers of a trunk that low-rank factors are added to, chosen by meaning or by name.

timm's families name their projections differently (``qkv``, ``q`` and ``kv``, ``qk`` and ``v``, ``to_query``), but all
attention has a layer that makes queries, and all perceptrons say so in their name or class.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from adapters.tuning.options import MEANINGS, LowRankOptions

#: Names of the layers that make queries: what holds one is attention. The gates of channels that timm calls attention,
#: too, hold none.
_QUERIES = re.compile(r"(w|to_)?(q|qk|qkv|qkvs|query)(_proj)?|pwise")

#: Classes of attention without queries: VOLO's layers give the scores themselves.
_ATTENTION_CLASSES = ("OutlookAttention",)

#: Attributes and classes of perceptrons. ``MLPBlock`` is a whole block.
_MLP_NAMES = re.compile(r"(mlp|ffn|feed_forward|glu)(_\w+|\d+)?")
_MLP_CLASSES = re.compile(r"Mlp|FFN|GLU|FeedForward")

#: Parts of names of what computes position biases or mixes the heads' scores.
_NOT_PROJECTIONS = re.compile(r"(cpb|meta)_mlp|\w*rel_pos\w*|pos_(proj|emb\w*|conv)|rope|proj_[lw]|talking_head\d?")


def choose_layers(trunk: Any, options: LowRankOptions, stem: Sequence[str], model_name: str) -> list[str]:
    """Choose the layers that get factors, by name, in the trunk's order; of those that train alone.

    Args:
        trunk: timm's model, in which what is frozen does not require gradients.
        options: their ``targets`` and ``r``.
        stem: names of the parameters that come before the stages or blocks.
        model_name: the backbone, for messages.

    Raises:
        ValueError: a target matches no layer; the nearest names are listed.
    """
    if isinstance(options.targets, str):
        return _by_meaning(trunk, options.targets, options.r, frozenset(stem), model_name)
    return _by_name(trunk, options.targets, model_name)


def meaning_of(trunk: nn.Module, name: str) -> str:
    """Return ``'attention'`` or ``'mlp'`` for a layer inside of one, and ``'other'`` for one that is in neither.

    What counts is the innermost module around it that is either; ``''`` stands for networks of positions and the like,
    which are no projections of tokens.
    """
    parts = name.split(".")
    if any(_NOT_PROJECTIONS.fullmatch(part) for part in parts):
        return ""
    for depth in range(len(parts) - 1, 0, -1):
        around = trunk.get_submodule(".".join(parts[:depth]))
        kind = type(around).__name__
        if kind in _ATTENTION_CLASSES or any(_QUERIES.fullmatch(child) for child, _ in around.named_children()):
            return "attention"
        if _MLP_NAMES.fullmatch(parts[depth - 1]) or _MLP_CLASSES.search(kind):
            return "mlp"
    return "other"


def _by_meaning(trunk: Any, meaning: str, r: int, stem: frozenset[str], model_name: str) -> list[str]:
    classifiers = trunk.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    found: dict[str, list[str]] = {name: [] for name in MEANINGS}
    for name, layer in trunk.named_modules():
        kind = meaning_of(trunk, name) if name and not _obstacle(layer) else ""
        is_ours = kind and f"{name}.weight" not in stem and name not in classifiers and layer.weight.requires_grad
        # Factors that hold no fewer numbers than the layer make nothing cheaper.
        if is_ours and r * (layer.weight[0].numel() + len(layer.weight)) < layer.weight.numel():
            found["all"].append(name)
            if kind in found and layer.weight[0].numel() == layer.weight.shape[1]:  # linear, or a convolution of 1 x 1
                found[kind].append(name)
    if not found[meaning]:
        given = ", ".join(f"{name!r} ({len(found[name])} layers)" for name in MEANINGS if found[name])
        raise ValueError(
            f"peft's targets={meaning!r} with r={r} matches no layer of {model_name} that trains and is larger than "
            f"its factors would be; it has {given or 'none of any kind'}. A list of names may give any layer."
        )
    return found[meaning]


def _by_name(trunk: nn.Module, targets: Sequence[str], model_name: str) -> list[str]:
    layers = {name: layer for name, layer in trunk.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    chosen: set[str] = set()
    for target in targets:
        named = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not named:
            raise ValueError(f"peft's targets: {model_name} has no layer {target!r}; {_nearest(target, list(layers))}.")
        for name in named:
            if obstacle := _obstacle(layers[name]):
                raise ValueError(
                    f"peft's targets: {target!r} matches {name} of {model_name}, {obstacle}; leave it out."
                )
        trained = [name for name in named if layers[name].weight.requires_grad]
        if not trained:
            raise ValueError(
                f"peft's targets: {target!r} matches only layers of {model_name} that are frozen or have no part in "
                f"its maps, such as {named[0]}; lower frozen_stages, or leave it out."
            )
        chosen.update(trained)
    return [name for name in layers if name in chosen]


def _obstacle(layer: nn.Module) -> str:
    """Say why peft's factors cannot stand beside a layer; empty where they can."""
    if type(layer) is nn.Linear:
        return ""
    if type(layer) is not nn.Conv2d:
        return f"a {type(layer).__name__}, which peft would take for a plain layer"
    if layer.groups > 1:
        return f"a convolution of {layer.groups} groups"
    if layer.padding_mode != "zeros" or (max(layer.kernel_size) > 1 and max(layer.dilation) > 1):
        return "a convolution that is dilated or pads with other than zeros, which peft's factors would not"
    return ""


def _nearest(target: str, names: Sequence[str]) -> str:
    """List the ends of names that a misspelt target may mean."""
    ends: dict[str, None] = {}
    for count in range(1, 4):
        for name in names:
            ends.setdefault(".".join(name.split(".")[-count:]))
    whole = [*ends, *names]
    near = difflib.get_close_matches(target, whole, n=3, cutoff=0.5)
    if near:
        return f"the nearest are {', '.join(near)}"
    leaves = dict.fromkeys(name.rpartition(".")[2] for name in names)
    return f"its layers are named {', '.join(list(leaves)[:12])}"
