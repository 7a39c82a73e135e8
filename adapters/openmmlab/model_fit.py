"""What of a checkpoint of a whole model fits the model of a config, decided and told before a run starts.

mmengine loads the tensors that fit and warns of the others, so that a model may be tested or trained at random. A test
and a resumed run need every tensor that is learned. A training that starts from a checkpoint (``load_from``) takes the
parts of the model that are in it: a part is the backbone, the neck or a head.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.whole_model import backbone_remedy, describe_contents
from adapters.trunk.build import build_without_data
from adapters.weights.file import StateDict
from adapters.weights.report import some

#: Share of a part's tensors that a checkpoint must hold to be a start for it. Half of a head is a head for other
#: classes; half of a backbone is a shallower backbone.
SAME_HEAD, SAME_BACKBONE = 0.5, 0.9

#: Share of the model's tensors below which nothing but chance has made any of them fit.
CHANCE = 0.05


@dataclass
class Fit:
    """The tensors of a checkpoint beside those of a model.

    Attributes:
        learned: names of the model's parameters and of its buffers of real numbers.
        missing: names of the model's that the checkpoint lacks, in order.
        unexpected: names of the checkpoint's that the model lacks.
        reshaped: names of both whose shapes differ, with the checkpoint's shape and the model's.
        left_out: names that fit and are not loaded, since they belong to a part that is another one.
    """

    learned: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    left_out: list[str] = field(default_factory=list)

    @property
    def fresh(self) -> list[str]:
        """The learned tensors that do not come from the checkpoint."""
        absent = {*self.missing, *self.reshaped, *self.left_out}
        return [name for name in self.learned if name in absent]

    @property
    def loaded(self) -> int:
        """The number of learned tensors that come from the checkpoint."""
        return len(self.learned) - len(self.fresh)

    def covers(self, place: str) -> bool:
        """Return whether the checkpoint gives every learned tensor of a module, and there are some."""
        prefix = f"{place}." if place else ""
        below = [name for name in self.learned if name.startswith(prefix)]
        return bool(below) and not set(below) & set(self.fresh)


def check_whole(model: nn.Module, contents: Mapping[str, Any], name: str) -> tuple[Fit, str]:
    """Check that a checkpoint holds the whole of a model, as a test or a resumed run needs it.

    Args:
        model: of :func:`build_model`.
        contents: of ``whole_model.read_model``.
        name: the checkpoint's, for messages.

    Returns:
        What fits, and a line for the log.

    Raises:
        ValueError: a tensor that is learned is missing, of another shape or not finite.
    """
    fit = compare(model, contents["state_dict"], name)
    if fit.fresh:
        raise ValueError(
            f"{name} is no checkpoint of this {type(model).__name__}: {_tell(fit, model)}; not in it: "
            f"{_by_part(fit, model)}. It seems to be {describe_contents(contents, model)}. A test or a resumed run "
            f"needs every tensor{_hint(fit)}.{backbone_remedy(contents, model, name)}"
        )
    _check_finite(model, contents["state_dict"], name)
    return fit, f"{name}: {_tell(fit, model)}"


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
            f"load_from={name} is no start for this {type(model).__name__}: {_tell(fit, model)}. It seems to be {what}."
            f"{backbone_remedy(contents, model, name)}"
        )
    _check_finite(model, contents["state_dict"], name)
    told = f"load_from={name}, {what}: {_tell(fit, model)}"
    if fit.fresh:
        told += f"; these start from their initial or pretrained weights: {_by_part(fit, model)}"
    return fit, told


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, without loading anything and on the meta device where possible."""
    config = copy.deepcopy(cfg.model)
    drop_pretrained(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run builds it again
        return build_without_data(lambda: MODELS.build(copy.deepcopy(config)))


def compare(model: nn.Module, state: StateDict, name: str) -> Fit:
    """Compare a checkpoint with a model, which takes its tensors if it is not on the meta device.

    torch does it, so that modules that rename old tensors do.

    Raises:
        ValueError: torch cannot copy a tensor.
    """
    own = model.state_dict()
    reshaped = {
        key: (tuple(tensor.shape), tuple(own[key].shape))
        for key, tensor in state.items()
        if key in own and own[key].shape != tensor.shape
    }
    fitting = copy.copy(state)
    for key in reshaped:
        del fitting[key]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*which is a no-op")  # to the meta device
            missing, unexpected = model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{name} cannot be loaded: {' '.join(str(error).split())}") from error
    learned = [key for key, tensor in own.items() if tensor.is_floating_point() or tensor.is_complex()]
    return Fit(learned, [key for key in missing if key not in reshaped], list(unexpected), reshaped)


def _check_finite(model: nn.Module, state: StateDict, name: str) -> None:
    parameters = {key for key, _ in model.named_parameters()}
    bad = [
        key
        for key, tensor in state.items()
        if tensor.is_floating_point()
        and not tensor.is_meta
        and (tensor.isnan().any() or (key in parameters and tensor.isinf().any()))
    ]
    if bad:
        raise ValueError(
            f"{name} holds values that are not finite, in {len(bad)} tensors: {some(bad)}. The training that wrote it "
            "had diverged; take an earlier checkpoint."
        )


def _of_other_parts(fit: Fit, model: nn.Module) -> list[str]:
    """List the tensors that fit, of parts of which too few fit for them to be the checkpoint's."""
    parts = _parts(model)
    fresh = Counter(_part_of(name, parts) for name in fit.fresh)
    total = Counter(_part_of(name, parts) for name in fit.learned)
    other = {
        part
        for part, count in total.items()
        if count - fresh[part] < (SAME_BACKBONE if part.endswith("backbone") else SAME_HEAD) * count
    }
    return [name for name in fit.learned if _part_of(name, parts) in other and name not in set(fit.fresh)]


def _parts(model: nn.Module, prefix: str = "") -> list[str]:
    """List the backbone, necks and heads of a model, also of a model inside it and of the heads of ``roi_head``."""
    parts: list[str] = []
    for name, child in model.named_children():
        inside = [inner for inner, _ in child.named_children()]
        if name != "backbone" and any(inner == "backbone" or inner.endswith("head") for inner in inside):
            parts += _parts(child, f"{prefix}{name}.")
        else:
            parts.append(f"{prefix}{name}")
    return parts


def _part_of(name: str, parts: Sequence[str]) -> str:
    """Return the part that a tensor belongs to; the first word of its name where it belongs to none."""
    return next((part for part in parts if name.startswith(f"{part}.")), name.partition(".")[0])


def _tell(fit: Fit, model: nn.Module) -> str:
    """Count what fits, what is missing, of another shape, unexpected, and what the model makes itself."""
    parts, learned = _parts(model), set(fit.learned)
    lacking = [name for name in fit.missing if name in learned]
    built = [name for name in fit.missing if name not in learned]
    said = f"{fit.loaded} of the model's {len(fit.learned)} tensors are loaded"
    if lacking:
        said += f", {len(lacking)} missing"
    if fit.reshaped:
        shown = [f"{name} {file} for {here}" for name, (file, here) in list(fit.reshaped.items())[:2]]
        more = ", ..." if len(fit.reshaped) > len(shown) else ""
        said += f", {len(fit.reshaped)} of another shape ({', '.join(shown)}{more})"
    if fit.left_out:
        said += f", {len(fit.left_out)} fit by chance and are left out"
    if fit.unexpected:
        counts = Counter(_part_of(name, parts) for name in fit.unexpected)
        said += f", {len(fit.unexpected)} unexpected ({some([f'{part} {count}' for part, count in counts.items()])})"
    if built:
        said += f", {len(built)} counters and indices made by the model itself ({some(built, 2)})"
    return said


def _by_part(fit: Fit, model: nn.Module) -> str:
    """List what does not come from the checkpoint: the names of two tensors, or the number in each part."""
    if len(fit.fresh) <= 2:
        return ", ".join(fit.fresh)
    parts = _parts(model)
    total = Counter(_part_of(name, parts) for name in fit.learned)
    fresh = Counter(_part_of(name, parts) for name in fit.fresh)
    return some([f"{part} {count} of {total[part]}" for part, count in fresh.items()], 8)


def _hint(fit: Fit) -> str:
    """Say what is usually the matter where a part of the model fits."""
    if fit.loaded and all(name.startswith("backbone.") for name in fit.fresh):
        return ": the backbone is another one, perhaps put in with `--backbone NAME` in training"
    if fit.loaded and fit.reshaped:
        return ": the number of classes or the widths are others"
    return ""
