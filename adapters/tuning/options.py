"""The option ``peft=dict(type='LoRA', r=8, ...)`` of an adapter, checked."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

#: Kinds of low-rank tuning.
KINDS = ("LoRA", "DoRA")

#: Targets by meaning.
MEANINGS = ("attention", "mlp", "all")


@dataclass(frozen=True)
class LowRankOptions:
    """Options of low-rank tuning (LoRA, arXiv 2106.09685, or DoRA, arXiv 2402.09353).

    Attributes:
        type: ``'LoRA'`` or ``'DoRA'``.
        r: the rank: numbers between the two factors that are added to a layer.
        alpha: the factors' product is scaled by ``alpha / r``; None for twice the rank.
        targets: the layers: ``'attention'``, ``'mlp'``, ``'all'``, or ends of their names such as ``['qkv', 'fc1']``.
        dropout: the rate of dropout before the factors, in training.
        norms: norms of the trunk train, too.
        biases: biases of the trunk train, too.
    """

    type: str = "LoRA"
    r: int = 8
    alpha: float | None = None
    targets: str | tuple[str, ...] = "attention"
    dropout: float = 0.0
    norms: bool = False
    biases: bool = False

    @property
    def scaling(self) -> float:
        """The number by which the factors' product is multiplied."""
        return (2 * self.r if self.alpha is None else self.alpha) / self.r


def parse(given: Mapping[str, Any]) -> LowRankOptions:
    """Read the value of ``peft=...``.

    Raises:
        ValueError: a key that is unknown, or a value that is not allowed.
    """
    known = [field.name for field in fields(LowRankOptions)]
    if not isinstance(given, Mapping):
        raise ValueError(f"peft={given!r} must be a dictionary such as dict(type='LoRA', r=8), or None.")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
            raise ValueError(f"peft={dict(given)!r} has a key {key!r} that is unknown: {hint}")
    options = dict(given)
    if not isinstance(options.get("targets", ""), str):
        options["targets"] = _checked_names(options["targets"])
    _check_values(result := LowRankOptions(**options))
    return result


def _checked_names(targets: Any) -> tuple[str, ...]:
    if not isinstance(targets, Sequence) or not targets or not all(name and isinstance(name, str) for name in targets):
        raise ValueError(
            f"peft's targets={targets!r} must be one of {', '.join(map(repr, MEANINGS))}, or a list of names of layers."
        )
    return tuple(targets)


def _check_values(options: LowRankOptions) -> None:
    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    wrong = {
        f"one of {', '.join(map(repr, KINDS))}": ("type", options.type in KINDS),
        "a whole number of 1 or more, such as 8": ("r", type(options.r) is int and options.r >= 1),
        "a number above 0, such as 16, or None for twice r": (
            "alpha",
            options.alpha is None or (is_number(options.alpha) and options.alpha > 0),
        ),
        f"one of {', '.join(map(repr, MEANINGS))}, or a list of names of layers": (
            "targets",
            isinstance(options.targets, tuple) or options.targets in MEANINGS,
        ),
        "a rate from 0 to below 1": ("dropout", is_number(options.dropout) and 0 <= options.dropout < 1),
        "True or False": ("norms", isinstance(options.norms, bool)),
        "True or False, too": ("biases", isinstance(options.biases, bool)),
    }
    for allowed, (key, is_right) in wrong.items():
        if not is_right:
            raise ValueError(f"peft's {key}={getattr(options, key)!r} must be {allowed.removesuffix(', too')}.")
