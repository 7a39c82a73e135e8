"""The values that an unread part of a pickle becomes: names that are not looked up, and records of calls never made."""

from dataclasses import dataclass, field
from typing import Any

#: Packages whose functions no checkpoint calls: a file that does is meant to run something in another reader. Reading
#: is safe without this list; it is there to tell the user what the file is.
_ATTACKS = frozenset(
    [
        "posix",
        "nt",
        "os",
        "subprocess",
        "sys",
        "importlib",
        "runpy",
        "pty",
        "socket",
        "shutil",
        "ctypes",
        "webbrowser",
        "codeop",
        "timeit",
        "pdb",
        "marshal",
        "pickle",
        "_pickle",
        "torch.hub",
        "torch.jit",
        "torch.load",
        "torch.serialization.load",
        "builtins.eval",
        "builtins.exec",
        "builtins.execfile",
        "builtins.compile",
        "builtins.open",
        "builtins.input",
        "builtins.breakpoint",
        "builtins.__import__",
    ]
)


class InertPickleError(Exception):
    """The data are no pickle that this reader knows, or are damaged."""


class AttackError(InertPickleError):
    """The pickle would run a program in another reader; the message is the name of what it calls."""


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function that a pickle names; it is not looked up.

    Attributes:
        path: its module and name.
    """

    path: str

    @property
    def is_attack(self) -> bool:
        """True if only a hostile pickle calls it."""
        parts = self.path.split(".")
        return any(".".join(parts[:count]) in _ATTACKS for count in (1, 2, 3))


@dataclass(eq=False)
class Record:
    """An object that was read past: what a pickle gives to build it. Two are equal only if they are the same.

    Attributes:
        path: the name of its class or of the function that makes it.
        arguments: those of the call.
        state: what its ``__setstate__`` would get.
        values: what it would append or add.
        entries: its items, where its class is a dictionary.
    """

    path: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    values: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.path}>"
