"""Low-rank factors added to the weights of their layers, without the model around them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from adapters.trunk.factor_names import is_factor, owner_of
from adapters.tuning.library import ADAPTER, require_peft

if TYPE_CHECKING:
    from peft import LoraConfig


def merge(weights: Mapping[str, Tensor], factors: Mapping[str, Tensor], config: "LoraConfig") -> dict[str, Tensor]:
    """Add factors to the weights of their layers, as peft does it.

    Args:
        weights: ``(O, I)`` or ``(O, I, k, k)`` of each layer with factors, by the layer's name and ``.weight``.
        factors: by their names in a peft folder, the layers' names first.
        config: of the factors.

    Returns:
        New weights by the same names.

    Raises:
        ValueError: the factors do not fit the weights, or the config.
    """
    library = require_peft()
    layers = list(dict.fromkeys(map(owner_of, factors)))
    tree = nn.Module()
    for layer in layers:
        _place(tree, layer.split("."), _plain_layer(weights[f"{layer}.weight"]))
    exact = dataclasses.replace(config, target_modules="|".join(map(re.escape, layers)), modules_to_save=None)
    library.inject_adapter_in_model(exact, tree, ADAPTER)
    try:
        outcome = library.set_peft_model_state_dict(tree, dict(factors), ADAPTER)
    except RuntimeError as error:
        raise ValueError(f"low-rank factors do not fit their layers: {' '.join(str(error).split())}") from error
    absent = [name for name in outcome.missing_keys if is_factor(name)]
    if absent or outcome.unexpected_keys:
        raise ValueError(f"low-rank factors do not fit their config, in {(absent or outcome.unexpected_keys)[0]}.")
    merged: dict[str, Tensor] = {}
    for layer in layers:
        merging: Any = tree.get_submodule(layer)
        merging.merge()
        merged[f"{layer}.weight"] = merging.get_base_layer().weight.detach()
    return merged


def _plain_layer(weight: Tensor) -> nn.Module:
    """Return the layer without bias that a weight ``(O, I)`` or ``(O, I, k, k)`` is of."""
    out, into, *kernel = weight.shape
    layer: Any = (
        nn.Conv2d(into, out, (kernel[0], kernel[1]), bias=False) if kernel else nn.Linear(into, out, bias=False)
    )
    layer.weight = nn.Parameter(weight.clone())
    return layer


def _place(tree: nn.Module, parts: Sequence[str], layer: nn.Module) -> None:
    """Hang a layer into a tree of empty modules."""
    for part in parts[:-1]:
        if part not in tree._modules:
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    tree.add_module(parts[-1], layer)
