"""Factors of low rank beside the layers of a trunk, put there by the library peft, and what trains with them."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adapters.trunk.factor_names import SCALING, is_factor
from adapters.tuning.library import ADAPTER, make_config, require_peft
from adapters.tuning.options import LowRankOptions
from adapters.tuning.targets import choose_layers

T = TypeVar("T", bound=Tensor)

#: What a convolution says of itself, which peft's layer around it does not.
_GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class LowRank:
    """The factors of a trunk.

    Attributes:
        options: as the user gave them.
        layers: names of the layers of the trunk that have factors.
    """

    options: LowRankOptions
    layers: tuple[str, ...]

    def plain_names(self, state: Mapping[str, T], prefix: str) -> dict[str, T]:
        """Give tensors of any shape the names that they have without factors; those of the factors stay.

        Args:
            state: the tensors by name.
            prefix: all that comes before the trunk's names.
        """
        bases = {f"{prefix}{layer}.base_layer": f"{prefix}{layer}" for layer in self.layers}
        return {self._renamed(key, bases): tensor for key, tensor in state.items()}

    def after_load(self, trunk: nn.Module, loaded: Collection[str]) -> None:
        """Set the magnitudes of DoRA to those of weights that were loaded without factors.

        Args:
            trunk: with the factors.
            loaded: names of the tensors that were.
        """
        if loaded and not any(map(is_factor, loaded)):
            set_magnitudes(trunk)

    def adopt(self, trunk: nn.Module, state: dict[str, Tensor], prefix: str) -> str:
        """Change a plain adapter's tensors, of any shape, in place into those of one whose factors change nothing.

        Args:
            trunk: with the factors.
            state: the tensors by name; left as they are where they hold factors.
            prefix: all that comes before the adapter's names.

        Returns:
            The reason why factors in it are not for these options; empty if there is none.
        """
        scaling = self.options.scaling
        saved = state.setdefault(f"{prefix}trunk.{SCALING}", torch.tensor(scaling))
        if not saved.is_meta and abs(saved.item() - scaling) > 0.01 * scaling:
            return (
                f"its low-rank factors are scaled by {saved.item():g}, and here by {scaling:g} (alpha / r): give "
                "peft=... the r and alpha of its training."
            )
        if any(key.startswith(f"{prefix}trunk.") and is_factor(key) for key in state):
            return ""
        for layer in self.layers:
            name = f"{prefix}trunk.{layer}"
            if f"{name}.weight" not in state:
                continue
            for factor, tensor in _idle_factors(trunk.get_submodule(layer), state[f"{name}.weight"]).items():
                state[f"{name}.{factor}"] = tensor
            for own in ("weight", "bias"):
                if f"{name}.{own}" in state:
                    state[f"{name}.base_layer.{own}"] = state.pop(f"{name}.{own}")
        return ""

    def trained_names(self, trunk: nn.Module) -> list[str]:
        """Name the trunk's tensors that training changes: factors, and norms with their statistics and biases."""
        trained = {name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
        statistics = {
            f"{name}.{own}"
            for name, module in trunk.named_modules()
            for own, _ in module.named_buffers(recurse=False)
            if f"{name}.weight" in trained and "running_mean" in module._buffers
        }
        return [name for name in trunk.state_dict() if name in trained | statistics]

    def describe(self, trunk: nn.Module) -> str:
        """Tell the kind of the factors, how many layers have them, and which share of the trunk trains."""
        numbers = [(parameter.numel(), parameter.requires_grad) for parameter in trunk.parameters()]
        total, trained = sum(count for count, _ in numbers), sum(count for count, trains in numbers if trains)
        more = [word for word in ("norms", "biases") if getattr(self.options, word)]
        return (
            f"{self.options.type} of rank {self.options.r}, scaled by {self.options.scaling:g}, in "
            f"{len(self.layers)} layers ({', '.join(_kinds(self.layers))}){''.join(f', {word}' for word in more)}: "
            f"{trained:,} of the trunk's {total:,} parameters train, {100 * trained / total:.2g}%"
        )

    @staticmethod
    def _renamed(key: str, bases: dict[str, str]) -> str:
        owner, _, own = key.rpartition(".")
        return f"{bases[owner]}.{own}" if owner in bases else key


def tune(trunk: Any, options: LowRankOptions, stem: Sequence[str], model_name: str) -> LowRank:
    """Put factors beside layers of a trunk and freeze the rest, in place; the trunk computes what it did.

    Args:
        trunk: timm's model, in which what is frozen already does not require gradients.
        options: of the user's.
        stem: names of the parameters that come before the stages or blocks.
        model_name: the backbone, for messages.

    Raises:
        ValueError: a target matches no layer.
        ModuleNotFoundError: peft is not installed.
    """
    low_rank = LowRank(options, tuple(choose_layers(trunk, options, stem, model_name)))
    trained = _norms_and_biases(trunk, options)
    require_peft().inject_adapter_in_model(make_config(options, low_rank.layers), trunk, ADAPTER)
    for layer in low_rank.layers:
        _show_geometry(trunk.get_submodule(layer))
    trunk.register_buffer(SCALING, torch.tensor(float(options.scaling)))
    for name, parameter in low_rank.plain_names(dict(trunk.named_parameters()), "").items():
        parameter.requires_grad_(is_factor(name) or name in trained)
    return low_rank


def set_magnitudes(trunk: nn.Module) -> None:
    """Set the magnitudes of DoRA, if there are any, to those of the present weights, in place."""
    for layer in trunk.modules():
        if getattr(layer, "lora_magnitude_vector", None):
            _set_magnitude(layer)


def _show_geometry(layer: Any) -> None:
    """Give a convolution with factors the attributes that timm's code may read of it (DaViT does)."""
    base = layer.get_base_layer()
    for name in _GEOMETRY if isinstance(base, nn.Conv2d) else ():
        setattr(layer, name, getattr(base, name))


def _norms_and_biases(trunk: nn.Module, options: LowRankOptions) -> set[str]:
    """Name the norms and biases that are to train, of those that are not frozen."""
    trained = set()
    for name, module in trunk.named_modules():
        is_norm = "Norm" in type(module).__name__
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and ((options.norms and is_norm) or (options.biases and own.endswith("bias"))):
                trained.add(f"{name}.{own}".lstrip("."))
    return trained


def _set_magnitude(layer: Any) -> None:
    dora = layer.lora_magnitude_vector[ADAPTER]
    # peft makes a new parameter, which an optimiser would not know.
    own = dora.weight
    dora.update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[ADAPTER].weight,
        lora_B=layer.lora_B[ADAPTER].weight,
        scaling=layer.scaling[ADAPTER],
    )
    with torch.no_grad():
        own.copy_(dora.weight)
    dora.weight = own


def _idle_factors(layer: nn.Module, weight: Tensor) -> dict[str, Tensor]:
    """Return factors for a layer with which it computes what it does with ``weight`` alone."""
    twin: Any = copy.deepcopy(layer)
    with torch.no_grad():
        twin.get_base_layer().weight.copy_(weight)
        twin.lora_B[ADAPTER].weight.zero_()
    set_magnitudes(twin)
    return {key: tensor for key, tensor in twin.state_dict().items() if is_factor(f".{key}")}


def _kinds(layers: Sequence[str]) -> list[str]:
    """List the ends of layers' names, without numbers."""
    return list(
        dict.fromkeys(".".join([part for part in name.split(".") if not part.isdigit()][-2:]) for name in layers)
    )
