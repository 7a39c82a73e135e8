"""Whole models in checkpoint files: reading them without running anything, and what they seem to be.

mmengine reads a file that holds more than it knows by running it. So the files of tests, of ``load_from`` and of
``--resume`` are read here.
"""

import ast
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.openmmlab.run_state import load_state
from adapters.weights.download import fetch_contents, locate
from adapters.weights.file import StateDict, first_line
from adapters.weights.report import some

#: Keys below which a checkpoint keeps the model; mmengine writes the first. A file without them is the model itself.
CONTAINERS = ("state_dict", "model", "module")

#: Prefixes that wrappers around a model put before its names.
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")

#: Beginnings of the names of classifiers' last layers, as timm, torchvision, mmpretrain and transformers have them.
CLASSIFIERS = ("head.", "heads.", "fc.", "classifier.", "head_drop.")


def read_model(name: str) -> dict[str, Any]:
    """Read a checkpoint of a whole model for its tensors; everything else in it is inert.

    Args:
        name: a path or a URL.

    Returns:
        What the file holds, with the model's tensors below ``state_dict``, without the names of wrappers.

    Raises:
        ValueError: it cannot be found, fetched or read, or holds no tensors.
    """
    try:
        return _with_state_dict(fetch_contents(name), name)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("weights=")) from error


def read_run(name: str, map_location: str | Callable[..., Any] = "cpu") -> dict[str, Any]:
    """Read a checkpoint of mmengine's with the state of its run: the optimiser, the schedules, the log.

    Args:
        name: a path or a URL.
        map_location: as ``torch.load`` takes it.

    Raises:
        ValueError: as :func:`read_as_mmengine`, or there is no state of a run.
    """
    contents = read_as_mmengine(name, map_location)
    meta = contents["meta"] if isinstance(contents.get("meta"), Mapping) else {}
    lacking = [key for key in ("epoch", "iter") if key not in meta]
    lacking += [key for key in ("message_hub",) if key not in contents]
    if lacking:
        raise ValueError(
            f"{name} cannot be resumed: it holds a model without the state of its run ({', '.join(lacking)}). Start "
            f"from its weights alone with `--cfg-options load_from={name}`."
        )
    # mmengine would run the text of `config`, which nothing else needs.
    return _with_state_dict({**contents, "meta": {key: meta[key] for key in meta if key != "config"}}, name)


def read_as_mmengine(name: str, map_location: str | Callable[..., Any] = "cpu") -> dict[str, Any]:
    """Read what mmengine can read of a checkpoint without running the file, which it would do with any other.

    Raises:
        ValueError: as :func:`read_model`, or the file holds other objects than those of a run.
    """
    read_model(name)  # has a message for everything that may be wrong with a file
    try:
        return load_state(locate(name), map_location)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError) as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{name} is not loaded here: mmengine would run the file to restore what it holds besides tensors and the "
            f"state of a run ({f'it names {foreign[1]}' if foreign else first_line(error)}). Its tensors "
            "alone are read by a test, and by a training that has load_from in the place of resume and no runner_type."
        ) from error


def describe_contents(contents: Mapping[str, Any], model: nn.Module) -> str:
    """Say what a checkpoint seems to be, from the config that it was trained with, or from its names.

    Args:
        contents: of :func:`read_model`.
        model: the one that it was meant for.
    """
    state: StateDict = contents["state_dict"]
    recorded = _recorded_types(contents.get("meta"))
    if recorded:
        return f"a model of type {recorded[0]}" + (f" with the backbone {recorded[1]}" if recorded[1:] else "")
    parts = list(dict.fromkeys(name.partition(".")[0] for name in state))
    if parts == ["backbone"]:
        return "the backbone of a model, alone"
    if "backbone" in parts:
        return f"a whole model of the parts {some(parts, 6)}"
    is_classifier = any(name.startswith(CLASSIFIERS) for name in state)
    kind = "a classifier" if is_classifier else "a backbone alone"
    if is_classifier or _holds_backbone(state, model):
        return f"{kind}, not a whole model (its names: {some(list(state), 3)})"
    return f"another model (its names: {some(list(state), 3)})"


def backbone_remedy(contents: Mapping[str, Any], model: nn.Module, name: str) -> str:
    """Say how a classifier or a bare backbone is loaded; empty where a checkpoint holds no backbone of the model's."""
    if not _holds_backbone(contents["state_dict"], model):
        return ""
    if isinstance(model.backbone, BackboneAdapter):
        setting = f"model.backbone.weights={name}"
    else:
        setting = f"model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={name}"
    return f" It starts the backbone of a training with `--cfg-options {setting}`."


def _holds_backbone(state: StateDict, model: nn.Module) -> bool:
    """Return whether most names of the model's backbone are in a checkpoint, without their prefix."""
    backbone = getattr(model, "backbone", None)
    bare = getattr(backbone, "trunk", backbone)
    names = set(bare.state_dict()) if isinstance(bare, nn.Module) else set()
    return bool(names) and len(names & set(state)) > len(names) / 2


def _with_state_dict(contents: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = next((contents[key] for key in CONTAINERS if isinstance(contents.get(key), Mapping)), contents)
    state = OrderedDict((WRAPPERS.sub("", key), value) for key, value in inner.items() if isinstance(value, Tensor))
    if not state:
        raise ValueError(
            f"{name} holds no tensors of a model where mmengine keeps them, below 'state_dict'; its keys are: "
            f"{some(list(map(str, contents)), 8) or 'none'}."
        )
    # The versions of its modules, by which torch and mmdet rename old tensors.
    versions = getattr(inner, "_metadata", None)
    known = versions.items() if isinstance(versions, Mapping) else ()
    vars(state)["_metadata"] = OrderedDict((key, value) for key, value in known if isinstance(value, dict))
    rest = {} if inner is contents else contents
    return {**rest, "state_dict": state}


def _recorded_types(meta: Any) -> list[str]:
    """Read the model's type, and its backbone's, from the config that mmengine writes into a checkpoint, as text."""
    text = meta.get("cfg") or meta.get("config") if isinstance(meta, Mapping) else None
    try:
        tree = ast.parse(text) if isinstance(text, str) else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    models = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(at, ast.Name) and at.id == "model" for at in node.targets)
    ]
    settings = _keywords(models[-1]) if models else {}
    backbone = _keywords(settings.get("backbone"))
    values = [settings.get("type"), backbone.get("model_name") or backbone.get("type")]
    return [node.value for node in values if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _keywords(call: ast.AST | None) -> dict[str | None, ast.expr]:
    """Return the arguments of ``dict(...)`` in the text of a config."""
    return {word.arg: word.value for word in call.keywords} if isinstance(call, ast.Call) else {}
