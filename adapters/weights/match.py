"""Pairing a checkpoint's tensors with an adapter's, strictly, resized where a size is all that differs."""

import difflib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import timm
import torch
from torch import Tensor

from adapters.trunk.build import split_tag
from adapters.trunk.factor_names import SCALING
from adapters.weights.file import StateDict
from adapters.weights.formats import OBSOLETE, TRUNK
from adapters.weights.interpret import Interpretation
from adapters.weights.key_prefixes import is_plain
from adapters.weights.leftovers import COMPUTED_BUFFERS, heads_by_shape, is_unmerged, reason_to_leave
from adapters.weights.report import ROWS, Report, Row
from adapters.weights.resize import resize, resize_hint
from adapters.weights.target import WeightsTarget


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
    report.elsewhere.extend(interpretation.elsewhere)
    if interpretation.format.note:
        report.notes.append(("format", interpretation.format.title, interpretation.format.note))
    result = Match(interpretation, adapter.loadable_tensors(), {}, [], report)
    for reason, prefix in interpretation.second_choices:
        report.leave_out(reason, prefix)
    unknown: StateDict = {}
    for key, tensor in interpretation.state.items():
        if key in result.targets:
            _pair(result, adapter, key, tensor)
        elif not _explain_unused(result, adapter, key, tensor):
            unknown[key] = tensor
    _explain_unknown(result, unknown)
    _explain_lost(result, adapter)
    _explain_missing(result, adapter, list(unknown))
    report.loaded, report.expected = frozenset(result.tensors), len(result.targets)
    return result


def _pair(result: Match, adapter: WeightsTarget, key: str, tensor: Tensor) -> None:
    """Take a tensor for the adapter's of the same name, or say why it cannot be taken."""
    target, name = result.targets[key], key.removeprefix(TRUNK)
    if not is_plain(tensor):
        kind = "on the meta device, without values" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        result.problems.append(("values", key, f"is {kind}: save the model's weights as plain tensors of numbers"))
        return
    fitted = resize(name, tensor, target, result.interpretation, adapter.in_channels)
    if fitted.shape != target.shape:
        if _is_computed(result, key):
            result.report.leave_out("tables of another size, rebuilt", key)
            return
        shapes = f"{tuple(tensor.shape)} in the checkpoint, {tuple(target.shape)} in the model"
        result.problems.append(("shape", key, shapes + resize_hint(name, tensor, target, result.interpretation)))
    elif fitted.is_floating_point() != target.is_floating_point():
        result.problems.append(("type", key, f"{fitted.dtype} in the checkpoint, {target.dtype} in the model"))
    elif key == TRUNK + SCALING and not torch.allclose(tensor.float(), target.float(), rtol=0.01):
        scales = f"{tensor.item():g} in the checkpoint, {target.item():g} in the model"
        result.problems.append(("value", key, f"{scales}: give peft=... the r and alpha of its training"))
    elif not _is_computed(result, key) and not torch.isfinite(fitted).all():
        result.problems.append(("values", key, "holds NaN or infinity"))
    else:
        if tensor.numel() != fitted.numel():
            result.report.notes.append(("resized", key, f"{tuple(tensor.shape)} -> {tuple(fitted.shape)}"))
        result.tensors[key] = fitted


def _explain_unused(result: Match, adapter: WeightsTarget, key: str, tensor: Tensor) -> bool:
    """Record why a tensor of the checkpoint has no place; return False if there is no good reason."""
    name = key.removeprefix(TRUNK)
    part = next((part for part in adapter.own_parts if part.holds(key)), None)
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
    elif _is_computed(result, key):
        reason = "tables of a size of their own, rebuilt"
    elif name.endswith("bias") and _is_zero(tensor):
        reason = "biases of zero"
    elif re.fullmatch(result.interpretation.format.output_norms, name):
        reason = "norms of another project's maps"
    elif not (reason := reason_to_leave(name, _norms_maps(result))):
        return False
    result.report.leave_out(reason, name)
    return True


def _explain_unknown(result: Match, unknown: StateDict) -> None:
    """Record the tensors that have no place for no known reason: problems, unless their shapes tell a head."""
    model = result.interpretation.info.model
    parts = frozenset(name.split(".")[0] for name in model.state_dict())
    named = {key.removeprefix(TRUNK): tensor for key, tensor in unknown.items()}
    for name in heads_by_shape(named, parts, int(getattr(model, "num_features", 0))):
        result.report.leave_out("a head, by its shape", name)
        del named[name]
    for name in named:
        if is_unmerged(name):
            detail = "a low-rank adapter that is not merged: save model.merge_and_unload().state_dict() with peft"
        else:
            detail = _nearest(result, name, result.targets)
        result.problems.append(("unexpected", name, detail))


def _explain_lost(result: Match, adapter: WeightsTarget) -> None:
    """Record the values that timm's filter has thrown away: a problem, unless they have no part in the maps."""
    filtered = result.interpretation.filtered
    if filtered is None:
        return
    # What lies beside all that the filter has kept is another model's.
    place = _common_prefix(filtered.kept)
    parts = {name.removeprefix(place).split(".")[0] for name in filtered.kept}
    for name, lost in filtered.lost.items():
        # DINOv3 masks some of its biases.
        mask = filtered.lost.get(f"{name}_mask")
        tensor = lost if mask is None else lost * mask.nan_to_num(1)
        if name in filtered.kept and _is_zero(tensor):
            continue
        if _explain_unused(result, adapter, name, tensor):
            continue
        part, _, rest = name.removeprefix(place).partition(".")
        if not name.startswith(place) or (rest and part not in parts):
            result.report.elsewhere.append(name.split(".")[0] + (".*" if "." in name else ""))
        elif _is_zero(tensor):
            result.report.leave_out("zeros that timm's filter drops", name)
        else:
            result.problems.append(("lost", name, _lost_hint(result, adapter)))


def _common_prefix(names: Iterable[str]) -> str:
    """Return the parts of dotted names that all of them begin with, with the last dot."""
    in_order = sorted(names) or [""]
    pairs = zip(in_order[0].split(".")[:-1], in_order[-1].split(".")[:-1], strict=False)
    return "".join(f"{part}." for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _lost_hint(result: Match, adapter: WeightsTarget) -> str:
    if len(result.problems) >= ROWS:
        return ""  # Not shown.
    base, _ = split_tag(adapter.model_name)
    variants = [name for name in timm.list_models(f"{base}*") if name != base]
    hint = f"; a variant of the model may have: {', '.join(variants[:3])}" if variants else ""
    return f"timm's filter throws away values that {base} has no place for" + hint


def _explain_missing(result: Match, adapter: WeightsTarget, unknown: list[str]) -> None:
    """Record tensors of the adapter that the checkpoint lacks: a problem, unless all of one of its own parts are."""
    given = set(result.interpretation.state)
    for part in adapter.own_parts:
        names = [key for key in result.targets if part.holds(key)]
        if names and not any(part.holds(key) for key in given):
            result.report.fresh.append(f"{len(names)} of {part.names} {part.start}, as it holds none")
            given.update(names)
    parameters = {name for name, _ in adapter.named_parameters()}
    for key in result.targets:
        if key not in given and (key in parameters or not _is_computed(result, key)):
            result.problems.append(("missing", key.removeprefix(TRUNK), _nearest(result, key, unknown)))


def _is_computed(result: Match, key: str) -> bool:
    """Return whether a tensor is a buffer that the model computes from its size."""
    last = key.rpartition(".")[2]
    return last in COMPUTED_BUFFERS or last in result.interpretation.info.derived_buffers


def _norms_maps(result: Match) -> bool:
    """Return whether the adapter has a final norm, which its maps then go through."""
    return any(re.match(rf"{re.escape(TRUNK)}(fc_|head\.)?norm\.", key) for key in result.targets)


def _is_zero(tensor: Tensor) -> bool:
    return is_plain(tensor) and not bool(tensor.any())


def _nearest(result: Match, key: str, others: Iterable[str]) -> str:
    if len(result.problems) >= ROWS:
        return ""  # Not shown.
    names = [other.removeprefix(TRUNK) for other in others]
    near = difflib.get_close_matches(key.removeprefix(TRUNK), names, n=2, cutoff=0.6)
    return f"nearest: {', '.join(near)}" if near else "nothing like it"
