"""The rules by which the names of a project become timm's, and the reading of a checkpoint by them."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.weights.file import StateDict

#: A pattern of a project's whole names, and the timm names that it may become: the first that the model has is taken.
#: ``#0``, ``#1`` and ``#2`` after a name are the thirds of a tensor that timm keeps in one.
Rule = tuple[str, tuple[str, ...]]

#: A function from a project's name to timm's and the third of it, if it is but one; to itself where there is none.
Renamer = Callable[[str], tuple[str, str]]

#: A pattern of timm's names, and the way of such a tensor to timm's layout.
Layout = tuple[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Project:
    """The names that a project gives to the tensors of some of timm's models.

    Attributes:
        name: identifies it.
        title: its name in messages.
        timm_modules: the timm files whose models it has; empty for all.
        renamer: from the names of a timm model to the way from the project's names to them.
        layouts: the tensors that it lays out in another way.
        finish: the last step, from the tensors under timm's names and the names that the model has.
        note: a line for the report about a difference that names do not show.
        output_norms: a pattern of the names of norms that it applies to its maps, and timm's model has not.
    """

    name: str
    title: str
    timm_modules: tuple[str, ...]
    renamer: Callable[[frozenset[str]], Renamer]
    layouts: tuple[Layout, ...] = ()
    finish: Callable[[StateDict, frozenset[str]], StateDict] = lambda state, _: state
    note: str = ""
    output_norms: str = ""


def by_rules(rules: Callable[[frozenset[str]], Sequence[Rule]]) -> Callable[[frozenset[str]], Renamer]:
    """Return the renamer that goes by rules, the most special first.

    Args:
        rules: from the names of a timm model to the rules for it.
    """

    def renamer(names: frozenset[str]) -> Renamer:
        compiled = [(re.compile(pattern), choices) for pattern, choices in rules(names)]

        def rename(name: str) -> tuple[str, str]:
            for pattern, choices in compiled:
                if match := pattern.fullmatch(name):
                    for choice in choices:
                        timms, _, third = match.expand(choice).partition("#")
                        if timms in names:
                            return timms, third
            return name, ""

        return rename

    return renamer


class Reader:
    """A project's names for one timm model.

    Args:
        project: the project.
        names: timm's names of all tensors of the full model.
    """

    def __init__(self, project: Project, names: frozenset[str]) -> None:
        self.project = project
        self._names = names
        self.rename = functools.cache(project.renamer(names))

    def read(self, state: StateDict) -> StateDict:
        """Return tensors of any shape under timm's names, those without one under their own; none is lost."""
        read: StateDict = {}
        thirds: dict[str, dict[str, str]] = {}
        # Where two would have one name, the one that has it already keeps it, and the other its own.
        for name, tensor in sorted(state.items(), key=lambda item: self.rename(item[0]) != (item[0], "")):
            timms, third = self.rename(name)
            if third:
                thirds.setdefault(timms, {})[third] = name
            else:
                read[name if timms in read else timms] = tensor
        for timms, names in thirds.items():
            if sorted(names) == ["0", "1", "2"] and timms not in read:
                read[timms] = torch.cat([state[names[third]] for third in "012"])
            else:
                read.update({name: state[name] for name in names.values()})
        for pattern, to_timms in self.project.layouts:
            read.update({name: to_timms(tensor) for name, tensor in read.items() if re.fullmatch(pattern, name)})
        return self.project.finish(read, self._names)
