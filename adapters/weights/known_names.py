"""The names that the checkpoints of one model may have, for each format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapters.trunk.build import timm_module_name
from adapters.trunk.factor_names import FACTOR
from adapters.weights.file import StateDict
from adapters.weights.formats import ADAPTERS, FORMATS, Format
from adapters.weights.projects import efficientnet_pytorch, features_only, huggingface, openmmlab
from adapters.weights.projects.naming import Project, Reader
from adapters.weights.target import WeightsTarget

#: Projects whose names are read and never written, as they need a model at hand.
PROJECTS: tuple[Project, ...] = (
    *huggingface.PROJECTS,
    *openmmlab.PROJECTS,
    *efficientnet_pytorch.PROJECTS,
    *features_only.PROJECTS,
)


@dataclass(frozen=True)
class KnownNames:
    """The names of an adapter's tensors in every format that its checkpoints may have.

    Attributes:
        timm: timm's names of them.
        formats: the formats by name.
        knows: for each format, a function that says whether a name is one of them.
    """

    timm: frozenset[str]
    formats: Mapping[str, Format]
    knows: Mapping[str, Callable[[str], bool]]


def known_names(adapter: WeightsTarget) -> KnownNames:
    """Return the names of an adapter's tensors in each format that its model's checkpoints come in."""
    own = {name: tensor for name, tensor in adapter.loadable_tensors().items() if FACTOR not in f".{name}"}
    timms = ADAPTERS.read(own)
    written = [known for known in FORMATS.values() if known is not ADAPTERS and known.serves(adapter.timm_modules)]
    formats = {ADAPTERS.name: ADAPTERS, **{known.name: known for known in written}}
    knows: dict[str, Callable[[str], bool]] = {ADAPTERS.name: frozenset(own).__contains__}
    knows |= {known.name: frozenset(known.write(timms)[0]).__contains__ for known in written}
    names = frozenset(timms)
    module = timm_module_name(adapter.model_name)
    for project in PROJECTS:
        if not project.timm_modules or module in project.timm_modules:
            reader = Reader(project, names | adapter.pruned_keys)
            formats[project.name] = Format(
                project.name,
                project.title,
                reader.read,
                _never_written,
                note=project.note,
                output_norms=project.output_norms,
            )
            knows[project.name] = _knower(reader, names)
    return KnownNames(frozenset(FORMATS["timm"].write(timms)[0]), formats, knows)


def _knower(reader: Reader, names: frozenset[str]) -> Callable[[str], bool]:
    return lambda name: reader.rename(name)[0] in names


def _never_written(_: StateDict) -> tuple[StateDict, StateDict]:
    raise AssertionError("names of this project are only read")
