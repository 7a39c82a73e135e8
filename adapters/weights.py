"""The only place that loads weights into a trunk: strictly, with a report, and never silently at random."""

from __future__ import annotations

import difflib
import logging
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv, model_entrypoint
from torch import Tensor

from adapters.checkpoint_files import StateDict, find_state_dict, locate, read, strip_prefix
from adapters.trunks import split_tag

if TYPE_CHECKING:
    from adapters.base import BackboneAdapter


@dataclass
class Report:
    """What happened to the tensors of a checkpoint."""

    source: str
    loaded: int = 0
    expected: int = 0
    resized: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"loaded {self.loaded} of {self.expected} tensors from {self.source}"]
        if self.resized:
            parts.append(f"resized {', '.join(self.resized)}")
        if self.left_out:
            parts.append(f"left out {len(self.left_out)} that this backbone has no use for ({_some(self.left_out)})")
        return "; ".join(parts)


def load(adapter: BackboneAdapter, source: str | None) -> Report | None:
    """Load weights into an adapter's trunk and log a report.

    Args:
        adapter: built, at random.
        source: ``'timm'``, a path or a URL; ``None`` leaves the weights random, with a warning.

    Raises:
        ValueError: the file cannot be read, or a tensor is missing, unexpected or of another shape, the classifier and
            the layers that the adapter has pruned aside.
    """
    if source is None:
        _log(f"{adapter.model_name}: the backbone starts from random weights (weights=None).", logging.WARNING)
        return None
    report = Report(source)
    if source == "timm":
        state = _timm_state(adapter)
    else:
        path = locate(source)
        wanted = frozenset(adapter.trunk.state_dict()) | adapter.pruned_keys
        state = strip_prefix(find_state_dict(read(path), path), wanted)
        state = _timm_filter(adapter, state, path.name)
    own = {f"stage_norms.{key}": value for key, value in _own_modules(adapter).items()}
    targets = {**adapter.trunk.state_dict(), **own}
    matched = _match(adapter, state, targets, report)
    with torch.no_grad():
        for key, tensor in matched.items():
            targets[key].copy_(tensor)
    report.loaded, report.expected = len(matched), len(targets)
    _log(f"{adapter.model_name}: {report}.", logging.INFO)
    return report


def _own_modules(adapter: BackboneAdapter) -> StateDict:
    stage_norms = getattr(adapter, "stage_norms", None)
    return {} if stage_norms is None else stage_norms.state_dict()


def _timm_state(adapter: BackboneAdapter) -> StateDict:
    """timm's own weights of the model's tag, through its resolver and cache."""
    try:
        donor = timm.create_model(
            adapter.model_name, pretrained=True, in_chans=adapter.in_channels, **adapter.trunk_arguments
        )
    except Exception as error:  # the hub's client has many exceptions of its own
        raise ValueError(
            f"weights='timm': timm could not get the weights of {adapter.model_name} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}). Give a local file instead, weights='path/to/file.safetensors', or weights=None."
        ) from error
    return donor.state_dict()


def _timm_filter(adapter: BackboneAdapter, state: StateDict, name: str) -> StateDict:
    """What timm does to checkpoints of this model before it loads them (old names, other layouts)."""
    module = sys.modules[model_entrypoint(split_tag(adapter.model_name)[0]).__module__]
    checkpoint_filter = getattr(module, "checkpoint_filter_fn", None)
    if checkpoint_filter is None:
        return state
    try:
        return checkpoint_filter(state, adapter.trunk)
    except (KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{name} does not look like a checkpoint of {adapter.model_name}: timm's filter for it fails "
            f"({type(error).__name__}: {error}); the file's keys begin with {_some(list(state))}."
        ) from error


def _match(adapter: BackboneAdapter, state: StateDict, targets: StateDict, report: Report) -> StateDict:
    """Pair the checkpoint's tensors with the adapter's, resized where a size is all that differs.

    Raises:
        ValueError: with every problem, and the nearest names.
    """
    problems = []
    matched: StateDict = {}
    classifier = _classifier_prefixes(adapter)
    for key, tensor in state.items():
        if key not in targets:
            if key in adapter.pruned_keys or key.startswith(classifier):
                report.left_out.append(key)
            else:
                near = difflib.get_close_matches(key, targets, n=1)
                problems.append(f"unexpected {key}" + (f" (is it {near[0]}?)" if near else ""))
            continue
        fitted = _fit(adapter, key, tensor, targets[key])
        if fitted.shape != targets[key].shape:
            problems.append(f"{key} is {tuple(tensor.shape)}, the model's is {tuple(targets[key].shape)}")
            continue
        if not torch.isfinite(fitted).all():
            problems.append(f"{key} holds NaN or infinity")
        if tensor.shape != fitted.shape:
            report.resized.append(f"{key} {tuple(tensor.shape)} -> {tuple(fitted.shape)}")
        matched[key] = fitted
    for key in targets:
        if key not in state and not key.endswith("num_batches_tracked"):
            hint = " (a checkpoint of a classifier has none; build with stage_norm=False)" if key.startswith("stage_norms") else ""
            problems.append(f"missing {key}{hint}")
    if problems:
        raise ValueError(
            f"{report.source} does not fit {adapter.model_name}: {len(problems)} problems, "
            f"{len(matched)} of {len(targets)} tensors matched.\n  " + "\n  ".join(problems[:20])
        )
    return matched


def _fit(adapter: BackboneAdapter, key: str, tensor: Tensor, target: Tensor) -> Tensor:
    """Adapt the first convolution to other channels and position embeddings to another grid, as timm does."""
    if tensor.shape == target.shape:
        return tensor
    first = adapter.trunk.pretrained_cfg.get("first_conv", "")
    if key in {f"{name}.weight" for name in ([first] if isinstance(first, str) else first or [])}:
        if tensor.ndim == 4 and tensor.shape[1] == 3 and tensor.shape[2:] == target.shape[2:]:
            return adapt_input_conv(adapter.in_channels, tensor)
    if key == "pos_embed" and tensor.ndim == 3 and tensor.shape[-1] == target.shape[-1]:
        grid = adapter.trunk.patch_embed.grid_size
        return resample_abs_pos_embed(tensor, grid, num_prefix_tokens=target.shape[1] - grid[0] * grid[1])
    return tensor


def _classifier_prefixes(adapter: BackboneAdapter) -> tuple[str, ...]:
    """What timm calls this model's classifier, with whatever number of classes."""
    names = adapter.trunk.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _some(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _log(message: str, level: int) -> None:
    """Into mmengine's log where a run is on, else into Python's."""
    try:
        from mmengine.logging import print_log
    except ModuleNotFoundError:
        logging.getLogger("adapters").log(level, message)
        return
    from mmengine.logging import MMLogger

    if MMLogger.check_instance_created("mmengine") or MMLogger._instance_dict:
        print_log(message, logger="current", level=level)
    else:
        logging.getLogger("adapters").log(level, message)
