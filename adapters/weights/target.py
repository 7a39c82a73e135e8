"""The view that loading has of an adapter, so that this package knows no adapter class."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from adapters.weights.formats import Format
from adapters.weights.report import Row


@dataclass(frozen=True)
class OwnPart:
    """Tensors that an adapter may add to timm's model, which only some checkpoints hold.

    Attributes:
        names: a pattern of their names, such as ``'pyramid.*'``.
        start: how they start where the checkpoint holds none of them, such as ``'start at random'``.
        unused: the reason why this adapter leaves out those that it has no place for; empty where they are an error.
        remedy: the message of that error.
    """

    names: str
    start: str
    unused: str = ""
    remedy: str = ""

    def holds(self, name: str) -> bool:
        """Return whether a tensor of the adapter is one of these."""
        return fnmatch.fnmatchcase(name, self.names)


class WeightsTarget(Protocol):
    """An adapter, as loading weights sees it.

    Attributes:
        model_name: the timm model, with or without a tag of weights.
        in_channels: channels of its images.
        trunk_arguments: further arguments for ``timm.create_model``.
        pruned_keys: keys of timm's full model that the adapter has no use for; a checkpoint may hold them.
        timm_modules: the timm files of its family.
    """

    model_name: str
    in_channels: int
    trunk_arguments: dict[str, Any]
    pruned_keys: frozenset[str]
    timm_modules: ClassVar[tuple[str, ...]]

    @property
    def own_parts(self) -> tuple[OwnPart, ...]:
        """The tensors that the adapter may add to timm's model."""

    def after_load(self, checkpoint_format: Format) -> list[Row]:
        """Return notes for the report about a checkpoint in this format."""

    def loadable_tensors(self) -> dict[str, Any]:
        """Return the tensors to set, timm's below ``trunk.`` under timm's names."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters."""
