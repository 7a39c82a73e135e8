"""Folders in peft's own format: factors and what else was trained of a trunk, without the weights that they adapt."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import Tensor

from adapters.files import atomic_write
from adapters.trunk.factor_names import is_factor
from adapters.tuning.library import ADAPTER, make_config, require_peft
from adapters.tuning.low_rank import LowRank

if TYPE_CHECKING:
    from peft import LoraConfig

#: peft's names of the files, and the beginning that it gives to all names of tensors.
CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftFolder:
    """The description of a folder of peft's.

    Attributes:
        path: the folder.
        config: as peft reads it.
        base: the weights that the factors adapt, as ``weights=...`` takes them; empty where the folder does not say.
    """

    path: Path
    config: "LoraConfig"
    base: str

    @property
    def tensors(self) -> Path:
        """The file of the tensors."""
        return self.path / (TENSORS if (self.path / TENSORS).is_file() else PICKLED)

    @property
    def scaling(self) -> float:
        """The number by which the factors' product is multiplied."""
        root = math.sqrt(self.config.r) if self.config.use_rslora else self.config.r
        return self.config.lora_alpha / root


def find(name: str) -> Path | None:
    """Return the folder of peft's that a path names, itself or by its file of tensors; None for other names."""
    path = Path(name).expanduser()
    if path.name in (TENSORS, PICKLED):
        path = path.parent
    return path if (path / CONFIG).is_file() else None


def read(path: Path) -> PeftFolder:
    """Read the description of a folder of peft's.

    Raises:
        ValueError: it is no low-rank adapter, or its tensors are not there.
        ModuleNotFoundError: peft is not installed.
    """
    try:
        written = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        kind = written.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path / CONFIG} is no config of peft's: {error}") from error
    if kind != "LORA":
        raise ValueError(f"{path} is an adapter of peft's of type {kind}; LORA, with or without DoRA, is what is read.")
    folder = PeftFolder(
        path, require_peft().LoraConfig.from_pretrained(str(path)), written.get("base_model_name_or_path") or ""
    )
    if not folder.tensors.is_file():
        raise ValueError(f"{path} holds no {TENSORS}; copy it, too.")
    return folder


def write(path: Path, low_rank: LowRank, tensors: Mapping[str, Tensor], base: str | None) -> None:
    """Write a folder of peft's, which ``peft.PeftModel.from_pretrained(timm_model, folder)`` loads.

    Args:
        path: the folder, made where it does not exist.
        low_rank: of the trunk.
        tensors: factors and other trained tensors of any shape, by their names in the trunk.
        base: the weights that the factors adapt, as ``weights=...`` takes them.
    """
    path.mkdir(parents=True, exist_ok=True)
    with atomic_write(path / TENSORS) as partial:
        named = {_PREFIX + to_peft(name): tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(named, str(partial), metadata={"format": "pt"})
    config = dataclasses.replace(make_config(low_rank.options, low_rank.layers), inference_mode=True)
    config.base_model_name_or_path = base
    with TemporaryDirectory() as scratch, atomic_write(path / CONFIG) as partial:
        config.save_pretrained(scratch)
        shutil.copy(Path(scratch, CONFIG), partial)


def to_peft(name: str) -> str:
    """Return a tensor's name in a folder of peft's from that in a trunk with factors."""
    if not is_factor(name):
        return name
    return name.replace(f".{ADAPTER}.weight", "" if "lora_magnitude" in name else ".weight")


def from_peft(name: str) -> str:
    """Return a tensor's name in a trunk with factors from that in a folder of peft's."""
    name = name.removeprefix(_PREFIX)
    if is_factor(name):
        return f"{name.removesuffix('.weight')}.{ADAPTER}.weight"
    return name.replace(".base_layer.", ".")
