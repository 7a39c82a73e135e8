"""The tensors of a checkpoint beside those of a model, counted by the model's parts: backbone, necks and heads."""

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from adapters.openmmlab.config_tree import drop_pretrained
from adapters.trunk.build import build_without_data
from adapters.weights.file import StateDict


@dataclass
class Fit:
    """The tensors of a checkpoint beside those of a model.

    Attributes:
        learned: names of the model's parameters and of its buffers of real numbers.
        missing: names of the model's that the checkpoint lacks, in order.
        unexpected: names of the checkpoint's that the model lacks.
        reshaped: names of both whose shapes differ, with the checkpoint's shape and the model's.
        surplus: the unexpected ones of real numbers.
        left_out: names that fit and are not loaded, since they belong to a part that is another one.
    """

    learned: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    surplus: list[str]
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
    missing = [key for key in missing if key not in reshaped]
    surplus = [key for key in unexpected if key in state and state[key].is_floating_point()]
    return Fit(learned, missing, list(unexpected), reshaped, surplus)


def list_parts(model: nn.Module, prefix: str = "") -> list[str]:
    """List the backbone, necks and heads of a model, also of a model inside it and of the heads of ``roi_head``."""
    parts: list[str] = []
    for name, child in model.named_children():
        inside = [inner for inner, _ in child.named_children()]
        if name != "backbone" and any(inner == "backbone" or inner.endswith("head") for inner in inside):
            parts += list_parts(child, f"{prefix}{name}.")
        else:
            parts.append(f"{prefix}{name}")
    return parts


def part_of(name: str, parts: Sequence[str]) -> str:
    """Return the part that a tensor belongs to; the first word of its name where it belongs to none."""
    return next((part for part in parts if name.startswith(f"{part}.")), name.partition(".")[0])


def part_shares(fit: Fit, parts: Sequence[str]) -> dict[str, float]:
    """Return which share of each part's tensors, the model's and the checkpoint's together, fit."""
    fresh = Counter(part_of(name, parts) for name in fit.fresh)
    surplus = Counter(part_of(name, parts) for name in fit.surplus)
    total = Counter(part_of(name, parts) for name in fit.learned)
    return {part: (count - fresh[part]) / (count + surplus[part]) for part, count in total.items()}
