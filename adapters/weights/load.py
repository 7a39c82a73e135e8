"""The only place that loads weights into an adapter: strictly, with a report, and never silently at random."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from adapters.weights import norm_eps
from adapters.weights.interpret import Reading, readings
from adapters.weights.match import Match
from adapters.weights.report import Report, table
from adapters.weights.source import SUPPORTED, Source

if TYPE_CHECKING:
    from adapters.base import BackboneAdapter


def resolve_source(weights: Any, init_cfg: Any) -> Source | None:
    """One source from the two idioms: ``weights=...`` and OpenMMLab's ``init_cfg``.

    Args:
        weights: a name as :class:`~adapters.weights.source.Source` has it, or None.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=..., img_size=...)``, the last two optional, or None.

    Raises:
        ValueError: both are given, or ``init_cfg`` asks for anything else.
    """
    if not init_cfg:
        return None if weights is None else Source(_checked_name("weights", weights))
    if weights is not None:
        raise ValueError(f"weights={weights!r} and init_cfg={init_cfg!r} both name a checkpoint; give one of them.")
    allowed = {"type", "checkpoint", "prefix", "img_size"}
    if not isinstance(init_cfg, Mapping) or init_cfg.get("type") != "Pretrained" or set(init_cfg) - allowed:
        raise ValueError(
            f"init_cfg={init_cfg!r}: only dict(type='Pretrained', checkpoint=..., prefix=..., img_size=...) is "
            "supported, since timm has initialised the trunk already. Leave init_cfg out to train from scratch."
        )
    prefix, size = init_cfg.get("prefix"), init_cfg.get("img_size")
    if prefix is not None and not isinstance(prefix, str):
        raise ValueError(f"init_cfg's prefix={prefix!r} must be a string such as 'backbone.'.")
    if size is not None and not (
        isinstance(size, Sequence) and len(size) == 2 and all(isinstance(s, int) for s in size)
    ):
        raise ValueError(f"init_cfg's img_size={size!r} must be two whole numbers, (H, W).")
    checkpoint = _checked_name("init_cfg's checkpoint", init_cfg.get("checkpoint"))
    return Source(checkpoint, prefix, None if size is None else (size[0], size[1]))


def load(adapter: BackboneAdapter, source: Source | None) -> Report | None:
    """Load weights into an adapter and log a report: all of its tensors are set, or none and an error is raised.

    Args:
        adapter: as built, at random.
        source: None leaves it so, with a warning.

    Raises:
        ValueError: the checkpoint cannot be found or read, or it does not fit: a tensor is missing, unexpected, of
            another shape or not finite, the classifier and the layers that the adapter has no use for aside.
    """
    if source is None:
        log(
            f"{adapter.model_name}: the backbone starts from random weights (weights=None), unless a checkpoint that "
            "is resumed or loaded next replaces them.",
            logging.WARNING,
        )
        return None
    best: tuple[Match, Reading] | None = None
    for reading in readings(adapter, source):
        match = Match(adapter, reading)
        # Of two that fit, the later one: there timm itself has resized what is of another size.
        if best is None or len(match.problems) <= len(best[0].problems):
            best = match, reading
        if match.is_plain or (not match.problems and reading.img_size):
            break
    assert best is not None, "a source has at least one reading"
    match, reading = best
    if match.problems:
        raise ValueError(_misfit(adapter, source, match))
    with torch.no_grad():
        for key, tensor in match.tensors.items():
            match.targets[key].copy_(tensor)
    report = reading.report
    if reading.norm_eps is not None:
        norm_eps.carry_over(adapter, reading.norm_eps, report)
    padding = getattr(adapter, "window_padding", reading.form.window_padding)
    if reading.form.window_padding not in ("zero", padding) and any("attn.qkv" in key for key in match.targets):
        report.note(
            "look",
            "window_padding",
            f"{padding!r} here; {reading.form.window_padding!r} computes what {reading.form.title} model does",
        )
    report.loaded, report.expected = len(match.tensors), len(match.targets)
    log(f"{adapter.model_name}: {report}", logging.INFO)
    return report


def _misfit(adapter: BackboneAdapter, source: Source, match: Match) -> str:
    count, expected = len(match.problems), len(match.targets)
    absent = sum(kind == "missing" for kind, _, _ in match.problems)
    return (
        f"weights={source.name!r} does not fit {adapter.model_name}: {count} problem{'s' if count > 1 else ''}, "
        f"{len(match.tensors)} of {expected} tensors match ({match.reading.report.form}). "
        + ("It looks like a checkpoint of another model. " if absent > expected // 2 else "")
        + f"Nothing was loaded.\n{table(match.problems)}"
    )


def _checked_name(what: str, name: Any) -> str:
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what}={name!r} must name a checkpoint: {SUPPORTED}; or be None for a random start.")
    return name


def log(message: str, level: int) -> None:
    """Into mmengine's log where a run has one, else into Python's, under ``adapters``."""
    try:
        from mmengine import logging as run_logging
    except ModuleNotFoundError:
        run_logging = None
    if run_logging is not None and run_logging.MMLogger._instance_dict:
        run_logging.print_log(message, logger="current", level=level)
    else:
        logging.getLogger("adapters").log(level, message)
