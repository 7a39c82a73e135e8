"""Pairing a checkpoint's tensors with an adapter's, strictly, resized where a size is all that differs."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.weights.file import StateDict
from adapters.weights.formats import OBSOLETE, TRUNK
from adapters.weights.interpret import Interpretation
from adapters.weights.report import ROWS, Report, Row
from adapters.weights.resize import resize, resize_hint
from adapters.weights.target import WeightsTarget

#: Last parts of the names of buffers that models compute from their size, in timm's past and present versions and in
#: the authors' code. A checkpoint may hold them, lack them, or hold them for another size.
_COMPUTED_BUFFERS = frozenset(
    {
        "attention_bias_idxs",
        "attn_mask",
        "num_batches_tracked",
        "rel_indices",
        "relative_coordinates_log",
        "relative_coords_table",
        "relative_position_index",
    }
)


@dataclass(frozen=True)
class Match:
    """The pairing of one interpretation of a checkpoint with an adapter.

    Attributes:
        interpretation: the checkpoint's.
        targets: the adapter's tensors by name.
        tensors: adapter's name -> the checkpoint's tensor in the adapter's shape.
        problems: everything for which the checkpoint must be refused.
        report: what is left out, resized or noteworthy.
    """

    interpretation: Interpretation
    targets: StateDict
    tensors: StateDict
    problems: list[Row]
    report: Report

    @property
    def is_exact(self) -> bool:
        """True if every tensor was there, in the right shape."""
        return not self.problems and not self.report.notes


def match(adapter: WeightsTarget, interpretation: Interpretation) -> Match:
    """Pair the tensors of an interpretation with those of an adapter; neither is changed.

    Raises:
        ValueError: the ``img_size`` that a user gave does not go with the position embeddings.
    """
    report = Report(interpretation.source, interpretation.found_as, notes=list(interpretation.notes))
    result = Match(interpretation, adapter.state_dict(), {}, [], report)
    computed = _COMPUTED_BUFFERS | interpretation.info.derived_buffers
    for reason, prefix in interpretation.second_choices:
        report.leave_out(reason, prefix)
    unknown = []
    for key, tensor in interpretation.state.items():
        if key in result.targets:
            _pair(result, adapter, key, tensor, _last(key) in computed)
        elif not _explain_unused(result, adapter, key, _last(key) in computed):
            unknown.append(key)
    for key in unknown:
        result.problems.append(("unexpected", key.removeprefix(TRUNK), _nearest(result, key, result.targets)))
    _explain_missing(result, adapter, computed, unknown)
    report.loaded, report.expected = len(result.tensors), len(result.targets)
    return result


def _pair(result: Match, adapter: WeightsTarget, key: str, tensor: Tensor, is_computed: bool) -> None:
    """Take a tensor for the adapter's of the same name, or say why it cannot be taken."""
    target, name = result.targets[key], key.removeprefix(TRUNK)
    fitted = resize(name, tensor, target, result.interpretation, adapter.in_channels)
    if fitted.shape != target.shape:
        if is_computed:
            result.report.leave_out("tables of another size, rebuilt", key)
            return
        shapes = f"{tuple(tensor.shape)} in the checkpoint, {tuple(target.shape)} in the model"
        result.problems.append(("shape", key, shapes + resize_hint(name, tensor, target, result.interpretation)))
    elif fitted.is_floating_point() != target.is_floating_point():
        result.problems.append(("type", key, f"{fitted.dtype} in the checkpoint, {target.dtype} in the model"))
    elif fitted.is_floating_point() and not torch.isfinite(fitted).all():
        result.problems.append(("values", key, "holds NaN or infinity"))
    else:
        if tensor.shape != fitted.shape:
            result.report.notes.append(("resized", key, f"{tuple(tensor.shape)} -> {tuple(fitted.shape)}"))
        result.tensors[key] = fitted


def _explain_unused(result: Match, adapter: WeightsTarget, key: str, is_computed: bool) -> bool:
    """Record why a tensor of the checkpoint has no place; return False if there is no good reason."""
    name = key.removeprefix(TRUNK)
    part = next((part for part in adapter.own_parts if key.startswith(part.prefix)), None)
    if name.startswith(result.interpretation.info.classifier):
        reason = "the classifier"
    elif name in adapter.pruned_keys:
        reason = "not needed for these maps"
    elif name in OBSOLETE:
        reason = "of an earlier version"
    elif part is not None and part.unused:
        reason = part.unused
    elif part is not None and part.remedy:
        result.problems.append(("unexpected", key, part.remedy))
        return True
    elif is_computed:
        reason = "tables of a size of their own, rebuilt"
    else:
        return False
    result.report.leave_out(reason, name)
    return True


def _explain_missing(result: Match, adapter: WeightsTarget, computed: frozenset[str], unknown: list[str]) -> None:
    """Record tensors of the adapter that the checkpoint lacks: a problem, unless all of one of its own parts are."""
    given = set(result.interpretation.state)
    for part in adapter.own_parts:
        names = [key for key in result.targets if key.startswith(part.prefix)]
        if names and not any(key.startswith(part.prefix) for key in given):
            result.report.fresh.append(f"{len(names)} of {part.prefix}* {part.start}, as it holds none")
            given.update(names)
    parameters = {name for name, _ in adapter.named_parameters()}
    for key in result.targets:
        if key not in given and (key in parameters or _last(key) not in computed):
            result.problems.append(("missing", key.removeprefix(TRUNK), _nearest(result, key, unknown)))


def _nearest(result: Match, key: str, others: Iterable[str]) -> str:
    if len(result.problems) >= ROWS:
        return ""  # Not shown.
    names = [other.removeprefix(TRUNK) for other in others]
    near = difflib.get_close_matches(key.removeprefix(TRUNK), names, n=2, cutoff=0.6)
    return f"nearest: {', '.join(near)}" if near else "nothing like it"


def _last(key: str) -> str:
    return key.rpartition(".")[2]
