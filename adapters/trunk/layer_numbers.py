"""The layer of each parameter of a backbone, counted from the image, by timm's own grouping."""

import fnmatch
from collections.abc import Iterator
from typing import Any, Protocol

from timm.models._manipulate import group_with_matcher
from timm.optim import auto_group_layers
from torch import nn

from adapters.trunk.factor_names import is_factor, owner_of

#: Parameters that timm's groups place wrongly or not at all: those right after the stem, and those that serve all
#: blocks or come after them.
WITH_THE_STEM = ("norm_pre.", "reg_token")
WITH_THE_LAST = ("fc_norm.", "rope.")

#: A made-up parameter name. timm's matchers put unknown names into the head's group, so its group is the head's number.
HEAD = "dense_prediction_head.weight"


class Grouped(Protocol):
    """The part of an adapter that is asked for here."""

    trunk: Any

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the adapter's parameters, as torch does."""
        ...

    def part_names(self) -> list[list[str]]:
        """Group their names: the stem, then one list per stage or block."""
        ...


def layer_numbers(adapter: Grouped) -> tuple[dict[str, int], int]:
    """Number the layers of a backbone: 0 is the stem, the largest is that of the neck and the heads.

    The layers are those of what is left of the trunk: where stages or blocks were pruned, the last one that is left
    stands right before the head. What a family adds to a stage (the stage norms of Twins) belongs to the last layer of
    that stage. A pyramid inside the adapter is as new as the neck and the heads, and is counted with them.

    Returns:
        The layer of each parameter, by its name in the adapter, and the number of the head's layer.
    """
    layers, head = trunk_layers(adapter.trunk)
    # An adapter has no classifier: what timm counts with it stands in the last layer (DenseNet's last norm, a final
    # norm by the name of fc_norm, rotary tables that all blocks share).
    numbers = {f"trunk.{name}": min(layer, max(head - 1, 0)) for name, layer in layers.items()}
    names = [name for name, _ in adapter.named_parameters()]
    if any(name not in numbers and not name.startswith("pyramid.") for name in names):
        for part in adapter.part_names():
            last = max(numbers[name] for name in part if name in numbers)
            numbers.update({name: last for name in part if name not in numbers})
    return {name: numbers.get(name, head) for name in names}, head


def trunk_layers(trunk: Any) -> tuple[dict[str, int], int]:
    """Number the layers of a timm model as its ``group_matcher`` groups them.

    What the matcher does not know counts as head, as it does in timm, but for what comes right after the stem. A few
    models have no matcher; there, as in timm, every twelve parameters make a layer, in the order in which the model
    holds them, up to the classifier.

    Returns:
        The layer of each parameter by its name, and the number of the head's layer.
    """
    names = [name for name, _ in trunk.named_parameters()]
    if not hasattr(trunk, "group_matcher"):
        layers = auto_group_layers(_WithoutFactors(trunk))
        layers.update({name: layers[f"{owner_of(name)}.base_layer.weight"] for name in names if is_factor(name)})
        classifier = trunk.pretrained_cfg.get("classifier") or ()
        below = [layer for name, layer in layers.items() if not name.startswith(classifier)]
        return layers, max(below) + 1
    matcher = trunk.group_matcher(coarse=False)
    layers = group_with_matcher([(name, None) for name in (*names, HEAD)], matcher, reverse=True)
    head = layers.pop(HEAD)
    assert all(layer <= head for layer in layers.values()), type(trunk).__name__
    for name in names:
        if name.startswith(WITH_THE_STEM):
            layers[name] = 0
    return layers, head


class _WithoutFactors:
    """The view that timm's counting gets of a trunk, in which low-rank factors do not count."""

    def __init__(self, trunk: Any) -> None:
        self.pretrained_cfg = trunk.pretrained_cfg
        self._trunk = trunk

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the other parameters."""
        return ((name, tensor) for name, tensor in self._trunk.named_parameters() if not is_factor(name))


def names_without_decay(trunk: Any) -> set[str]:
    """Name the parameters that timm's ``no_weight_decay`` spares weight decay (it may list patterns)."""
    patterns = tuple(trunk.no_weight_decay()) if hasattr(trunk, "no_weight_decay") else ()
    names = [name for name, _ in trunk.named_parameters()]
    return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
