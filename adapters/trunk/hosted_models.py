"""Models that others host in timm's format, by timm's names for them: ``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``.

Their ``config.json`` names one of timm's architectures, and the arguments that it was built with.
"""

import copy
import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path
from torch import nn

#: Arguments of ``timm.create_model`` that say where weights come from, or ask for another kind of model.
_NOT_OF_A_MODEL = ("features_only", "out_indices", "pretrained", "pretrained_cfg", "checkpoint_path", "cache_dir")


@dataclass(frozen=True)
class HostedModel:
    """A model that is described by a ``config.json``.

    Attributes:
        architecture: timm's name of it, without a tag.
        arguments: those of ``timm.create_model`` that it was built with.
        pretrained_cfg: timm's record of its weights: normalisation, size, classes, and where they are.
        weights: the name of its weights for ``weights=...``; ``'timm'`` where only timm can find them.
    """

    architecture: str
    arguments: Mapping[str, Any]
    pretrained_cfg: Mapping[str, Any]
    weights: str

    @property
    def structure(self) -> Hashable:
        """All that decides about the structure of the model."""
        return self.architecture, repr(sorted(self.arguments.items())), self.pretrained_cfg.get("num_classes")


def hosted_model(model_name: str) -> HostedModel | None:
    """Return the model that a name with a source describes; None for a name of timm's own models.

    Raises:
        ValueError: there is no such folder or repository, it cannot be reached, or it is not in timm's format.
    """
    source, place = parse_model_name(model_name)
    if source is None:
        return None
    if source == "hf-hub":
        return _from_hub(place)
    path = Path(place).expanduser()
    config = path / "config.json"
    if not config.is_file():
        raise ValueError(
            f"model_name={model_name!r} names no folder with a config.json (looked at {config.absolute()}); timm's "
            "save_for_hf writes such folders, and a repository of the Hugging Face hub in timm's format is one."
        )
    return _from_folder(str(path), config.stat().st_mtime_ns)


def create_timm_model(model_name: str, **arguments: Any) -> nn.Module:
    """Build a model as ``timm.create_model`` does; the description of a hosted one is read once.

    Args:
        model_name: with or without a tag, or with a source.
        arguments: those of ``timm.create_model``, before those of the description.

    Raises:
        ValueError: as :func:`hosted_model`, or the description holds an argument that timm refuses.
    """
    hosted = hosted_model(model_name)
    if hosted is None:
        return timm.create_model(model_name, **arguments)
    given = {key: value for key, value in arguments.items() if value is not None}
    if hosted.arguments:
        given["pretrained_model_args"] = dict(hosted.arguments)
    described = copy.deepcopy(dict(hosted.pretrained_cfg))
    try:
        return timm.create_model(hosted.architecture, pretrained_cfg=described, **{**hosted.arguments, **given})
    except TypeError as error:
        unknown = next((key for key in hosted.arguments if key not in given and repr(key) in str(error)), None)
        if unknown is None:
            raise
        raise ValueError(
            f"the config.json of {model_name!r} sets {unknown!r} in model_args, which timm {timm.__version__}'s "
            f"{hosted.architecture} does not take; remove it there, or install the timm that it was written with."
        ) from error


def has_weights(model_name: str) -> bool:
    """Return whether ``weights='timm'`` means something for a model."""
    return hosted_model(model_name) is not None or timm.models.is_model_pretrained(model_name)


@functools.lru_cache(maxsize=64)
def _from_hub(repository: str) -> HostedModel:
    name = f"hf-hub:{repository}"
    try:
        description = load_model_config_from_hf(repository)
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(name) from error
    except Exception as error:  # the hub's client has many exceptions of its own
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"model_name={name!r}: its config.json could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason}). Check the name and the network, or download the repository and give "
            "'local-dir:FOLDER'."
        ) from error
    return _checked(name, description, name)


@functools.lru_cache(maxsize=64)
def _from_folder(folder: str, _modified: int) -> HostedModel:
    name = f"local-dir:{folder}"
    try:
        description = load_model_config_from_path(folder)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:  # json's errors are ValueErrors
        raise _foreign(name) from error
    return _checked(name, description, name)


def _checked(name: str, description: tuple[Any, Any, Any], weights: str) -> HostedModel:
    """Check what timm has read from a ``config.json``."""
    config, architecture, arguments = description
    if not isinstance(architecture, str) or not isinstance(config, dict) or not isinstance(arguments or {}, dict):
        raise _foreign(name)
    architecture = architecture.split(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(f"model_name={name!r} is a {architecture!r}, which timm {timm.__version__} does not have.")
    if refused := [key for key in arguments or {} if key in _NOT_OF_A_MODEL]:
        raise ValueError(
            f"the config.json of {name!r} sets {', '.join(refused)} in model_args, which no backbone takes."
        )
    if config.get("hf_hub_filename") or config.get("custom_load"):
        weights = "timm"
    return HostedModel(architecture, dict(arguments or {}), config, weights)


def _foreign(name: str) -> ValueError:
    return ValueError(
        f"the config.json of {name!r} is not timm's, which has 'architecture' and 'pretrained_cfg'; give timm's name "
        "of the model, and the folder, file or repository as weights=..."
    )
