"""Checkpoints of whole models, accepted or refused before a run starts, and what of them is loaded.

mmengine loads the tensors that fit and warns of the others, so that a model may be tested or trained at random. A test
and a resumed run need every tensor that is learned. A training that starts from a checkpoint (``load_from``) takes the
parts of the model that are in it: a part is the backbone, the neck or a head.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from adapters.openmmlab.checkpoint_parts import Fit, compare, list_parts, part_of, part_shares
from adapters.openmmlab.whole_model import backbone_remedy, describe_contents
from adapters.weights.file import StateDict
from adapters.weights.report import some

#: Least share of the tensors of a part, the model's and the checkpoint's together, that fit where the part is the same.
#: A head of which half fits is one for other classes; a backbone of which half fits is of another depth.
SAME_HEAD, SAME_BACKBONE = 0.5, 0.9

#: The same for a part of which a checkpoint holds all and more: a layer may have been of use to its training alone.
SAME_IN_TEST = 0.8

#: Share of the model's tensors below which nothing but chance has made any of them fit.
CHANCE = 0.05


def check_whole(model: nn.Module, contents: Mapping[str, Any], name: str) -> tuple[Fit, str]:
    """Check that a checkpoint holds the whole of a model, as a test or a resumed run needs it.

    Args:
        model: of :func:`build_model`.
        contents: of ``whole_model.read_model``.
        name: the checkpoint's, for messages.

    Returns:
        What fits, and a line for the log.

    Raises:
        ValueError: a tensor that is learned is missing, of another shape or not finite, or a part of the checkpoint
            is larger than the model's.
    """
    fit = compare(model, contents["state_dict"], name)
    larger = [part for part, share in part_shares(fit, list_parts(model)).items() if share < SAME_IN_TEST]
    if fit.fresh or larger:
        wrong = f"not in it: {_by_part(fit, model)}" if fit.fresh else f"larger than the model's: {', '.join(larger)}"
        raise ValueError(
            f"{name} is no checkpoint of this {type(model).__name__}: {_tell(fit, model, 'fit')}; {wrong}. It "
            f"seems to be {describe_contents(contents, model)}. A test or a resumed run needs every tensor"
            f"{_hint(fit)}.{backbone_remedy(contents, model, name)}"
        )
    _check_finite(model, fit, contents["state_dict"], name)
    return fit, f"{name}: {_tell(fit, model, 'are loaded')}"


def check_partial(model: nn.Module, contents: Mapping[str, Any], name: str) -> tuple[Fit, str]:
    """Check that a checkpoint is a start for a model: that it holds one of its parts at least.

    Args:
        model: of :func:`build_model`.
        contents: of ``whole_model.read_model``.
        name: the checkpoint's, for messages.

    Returns:
        What fits, and a line for the log.

    Raises:
        ValueError: no part of the model is in it, or what is in it is not finite.
    """
    fit = compare(model, contents["state_dict"], name)
    fit.left_out += _of_other_parts(fit, model)
    what = describe_contents(contents, model)
    if fit.loaded < max(1, CHANCE * len(fit.learned)):
        raise ValueError(
            f"load_from={name} is no start for this {type(model).__name__}: {_tell(fit, model, 'fit')}. It seems to be "
            f"{what}.{backbone_remedy(contents, model, name)}"
        )
    _check_finite(model, fit, contents["state_dict"], name)
    told = f"load_from={name}, {what}: {_tell(fit, model, 'are loaded')}"
    if fit.fresh:
        told += f"; these start from their initial or pretrained weights: {_by_part(fit, model)}"
    return fit, told


def _check_finite(model: nn.Module, fit: Fit, state: StateDict, name: str) -> None:
    parameters = {key for key, _ in model.named_parameters()}
    used = [key for key in fit.learned if key in state]
    bad = [key for key in used if state[key].isnan().any() or (key in parameters and state[key].isinf().any())]
    if bad:
        raise ValueError(
            f"{name} holds values that are not finite, in {some(bad)}. The training that wrote it "
            "had diverged; take an earlier checkpoint."
        )


def _of_other_parts(fit: Fit, model: nn.Module) -> list[str]:
    """List the tensors that fit, of parts of which too few fit for them to be the checkpoint's."""
    parts = list_parts(model)
    other = {
        part
        for part, share in part_shares(fit, parts).items()
        if share < (SAME_BACKBONE if part.endswith("backbone") else SAME_HEAD)
    }
    fresh = set(fit.fresh)
    return [name for name in fit.learned if part_of(name, parts) in other and name not in fresh]


def _tell(fit: Fit, model: nn.Module, verb: str) -> str:
    """Count what fits, what is missing, of another shape, unexpected, and what the model makes itself."""
    parts, learned = list_parts(model), set(fit.learned)
    lacking = [name for name in fit.missing if name in learned]
    built = [name for name in fit.missing if name not in learned]
    said = f"{fit.loaded} of the model's {len(fit.learned)} tensors {verb}"
    if lacking:
        said += f", {len(lacking)} missing"
    if fit.reshaped:
        shown = [f"{name} {file} for {here}" for name, (file, here) in list(fit.reshaped.items())[:2]]
        more = ", ..." if len(fit.reshaped) > len(shown) else ""
        said += f", {len(fit.reshaped)} of another shape ({', '.join(shown)}{more})"
    if fit.left_out:
        said += f", {len(fit.left_out)} fit and are left out, of parts that differ ({_per_part(fit.left_out, parts)})"
    if fit.unexpected:
        said += f", {len(fit.unexpected)} unexpected ({_per_part(fit.unexpected, parts)})"
    if built:
        said += f", {len(built)} counters and indices made by the model itself ({some(built, 2)})"
    return said


def _per_part(names: Sequence[str], parts: Sequence[str]) -> str:
    """Count names in each part."""
    counts = Counter(part_of(name, parts) for name in names)
    return some([f"{part} {count}" for part, count in counts.items()])


def _by_part(fit: Fit, model: nn.Module) -> str:
    """List what does not come from the checkpoint: the names of two tensors, or the number in each part."""
    if len(fit.fresh) <= 2:
        return ", ".join(fit.fresh)
    parts = list_parts(model)
    total = Counter(part_of(name, parts) for name in fit.learned)
    fresh = Counter(part_of(name, parts) for name in fit.fresh)
    return some([f"{part} {count} of {total[part]}" for part, count in fresh.items()], 8)


def _hint(fit: Fit) -> str:
    """Say what is usually the matter where a part of the model fits."""
    if fit.loaded and {name for name in fit.learned if name.startswith("backbone.")} <= set(fit.fresh):
        return ": the backbone is another one, perhaps put in with `--backbone NAME` in training"
    if fit.loaded and fit.reshaped:
        return ": the number of classes or the widths are others"
    return ""
