"""One model for each of timm's families: the one with the fewest parameters."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import timm

from adapters.files import read_json, write_json
from adapters.trunk.build import build_without_data, timm_module_name

#: timm's own toys, for its unit tests.
TOYS = "test_*"


@dataclass(frozen=True)
class Representative:
    """The smallest model of a family.

    Attributes:
        family: the file of timm's that it comes from, such as ``'efficientformer_v2'``.
        model_name: without a tag.
        parameters: how many it has, classifier and all.
        native: ``(H, W)``, the size that timm gives for it.
    """

    family: str
    model_name: str
    parameters: int
    native: tuple[int, int]


def choose(model_names: Iterable[str]) -> list[Representative]:
    """Build each model without memory and keep the smallest of each family, by family name."""
    smallest: dict[str, Representative] = {}
    for name in model_names:
        model = build_without_data(partial(timm.create_model, name))
        family = timm_module_name(name)
        count = sum(parameter.numel() for parameter in model.parameters())
        if family not in smallest or count < smallest[family].parameters:
            height, width = model.pretrained_cfg["input_size"][1:]
            smallest[family] = Representative(family, name, count, (height, width))
    return [smallest[family] for family in sorted(smallest)]


def representatives(cache: Path) -> list[Representative]:
    """Find the smallest model of every family of the installed timm, kept in ``cache`` (minutes the first time)."""
    known = read_json(cache, {})
    if known.get("timm") == timm.__version__:
        return [Representative(**{**row, "native": tuple(row["native"])}) for row in known["models"]]
    chosen = choose(timm.list_models(exclude_filters=TOYS))
    write_json(cache, {"timm": timm.__version__, "models": [asdict(one) for one in chosen]})
    return chosen
