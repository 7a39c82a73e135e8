"""Tell timm's names of tensors from those of other projects by the words of timm's code, without knowing the model."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import timm

#: The ways in which timm's code names a module, a parameter or a buffer.
_NAMING = re.compile(
    r"self\.(\w+)(?:\s*:[^=\n]+)?\s*=[^=]"
    r"|self\.(\w+)(?=\s*,[^=\n()]*=[^=])"
    r"|(?:add_module|register_buffer|register_parameter)\(\s*f?['\"](\w+)"
    r"|setattr\(\s*self,\s*f?['\"](\w+)"
    r"|[(\[]\s*f?['\"](\w+)(?:[{%][^'\"]*)?['\"]\s*[,%]"
    r"|\w\[f?['\"](\w+)[^\]]*\]\s*=[^=]"
    r"|f?['\"](\w+)(?:[{%]|['\"]\s*\+|['\"]\.format)"
)

#: A file of timm's models that another builds on.
_IMPORTED = re.compile(r"^from (?:\.|timm\.models\.)(\w+) import", re.MULTILINE)

#: Last parts of the names of tensors in torch's layers.
_TORCHS = frozenset(
    [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "weight_ih_l",
        "weight_hh_l",
        "bias_ih_l",
        "bias_hh_l",
        "weight_ih_l0_reverse",
        "weight_hh_l0_reverse",
        "bias_ih_l0_reverse",
        "bias_hh_l0_reverse",
    ]
)

#: Wrappers of training programs for which a file of timm's has a word, too, though no name of its begins with it.
_WRAPPERS = ("backbone", "model", "module", "trunk")


def foreign_names(names: Iterable[str]) -> list[str]:
    """Return the names that are none of timm's: no word stands for them in the file of models that knows most names."""
    found = {name: tuple(part for part in name.split(".") if not part.isdigit()) for name in names}
    kinds = {parts for parts in found.values() if parts and parts[0] not in _WRAPPERS}
    known: set[tuple[str, ...]] = set()
    for words in _words_by_file().values():
        those = {parts for parts in kinds if all(_has(words, part) for part in parts)}
        known = max(known, those, key=len)
    return [name for name, parts in found.items() if parts not in known]


def _has(words: frozenset[str], part: str) -> bool:
    # A name may end with a number that the code counts, as layer1 does, or with two, as conv2_1.
    return part in words or part.rstrip("0123456789") in words or re.sub(r"\d+_\d+$", "", part) in words


@functools.cache
def _words_by_file() -> dict[str, frozenset[str]]:
    """Collect the names of modules, parameters and buffers in each file of timm's models and what it builds on."""
    folder = Path(timm.__file__).parent
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (folder / "models").glob("*.py")}
    layers = [path.read_text(encoding="utf-8") for path in (folder / "layers").glob("*.py")]
    common = _TORCHS.union(*map(_named, layers))
    own = {stem: _named(text) for stem, text in texts.items()}
    behind = {stem: {found for found in _IMPORTED.findall(text) if found in texts} for stem, text in texts.items()}
    return {stem: common.union(*(own[other] for other in _closure(stem, behind))) for stem in texts if stem[0] != "_"}


def _named(text: str) -> frozenset[str]:
    return frozenset(word for match in _NAMING.finditer(text) for word in match.groups() if word)


def _closure(start: str, edges: dict[str, set[str]]) -> set[str]:
    reached, waiting = {start}, [start]
    while waiting:
        new = edges[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached
