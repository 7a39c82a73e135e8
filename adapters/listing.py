"""The timm models that work as backbones, and the levels that they give by default.

``listing.json`` beside this file holds what ``tools/measure_coverage.py --records`` found when it built the adapter of
every model of one version of timm. Models that are not in it, because timm is newer, are built when they are asked for,
without memory for their parameters.
"""

import fnmatch
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm

from adapters.factory import TimmAdapter
from adapters.files import read_json
from adapters.levels import Level
from adapters.trunk.build import build_without_data, check_model_name, split_tag

RECORDS = Path(__file__).with_name("listing.json")


def list_models(pattern: str | Sequence[str] = "*") -> list[str]:
    """The timm models that work as backbones, sorted by name, without tags.

    >>> list_models("twins_svt_*")
    ['twins_svt_base', 'twins_svt_large', 'twins_svt_small']

    Args:
        pattern: as in a shell, or several of them.

    Raises:
        ValueError: timm has no model of that pattern.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    names = [name for name in timm.list_models() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    if not names:
        raise ValueError(
            f"timm {timm.__version__} has no model of the pattern {pattern!r}; a pattern is as in a shell, such as "
            "'*vit*' or 'resnet50'."
        )
    return sorted(name for name in names if "levels" in record(name))


def default_levels(model_name: str) -> tuple[Level, ...]:
    """The levels that a model gives by default, without building it where it is known.

    Raises:
        ValueError: timm has no such model, or it cannot serve as a backbone, with the reason.
    """
    check_model_name(model_name)
    found = record(split_tag(model_name)[0])
    if "refused" in found:
        raise ValueError(found["refused"])
    return tuple(Level(channels, stride) for channels, stride in found["levels"])


def record(model_name: str) -> dict[str, Any]:
    """``{'levels': [[channels, stride], ...]}``, or ``{'refused': reason}``; the name without a tag."""
    return _records().get(model_name) or make_record(model_name)


@functools.cache
def _records() -> dict[str, dict[str, Any]]:
    return read_json(RECORDS, {"models": {}})["models"]


@functools.lru_cache(maxsize=4096)
def make_record(model_name: str) -> dict[str, Any]:
    """Build the adapter of a model, without memory where timm can, and read what it gives."""
    try:
        adapter = build_without_data(lambda: TimmAdapter(model_name))
    except ValueError as error:
        return {"refused": str(error)}
    return {"levels": [[level.channels, level.stride] for level in adapter.levels]}
