"""Folders of the library peft in runs of OpenMMLab: written beside checkpoints, and tested as if they were one."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.files import atomic_write
from adapters.openmmlab.config_tree import drop_pretrained, find_owner
from adapters.registry import register_hook
from adapters.trunk.factor_names import is_factor
from adapters.tuning import folder as peft_folder
from adapters.weights.factors import settle_factors
from adapters.weights.file import read_file
from adapters.weights.load import load_weights
from adapters.weights.source import Source

#: The name of the folder in a work directory, and that of its file with the tensors outside of the trunk.
FOLDER, REST = "peft", "rest_of_model.safetensors"


@register_hook
class PeftFolderHook(Hook):
    """A hook that writes what low-rank tuning has trained as a folder of peft's, whenever a checkpoint is saved.

    ``WORK_DIR/peft`` holds what peft reads of the trunk, and the tensors of the neck and the heads in a file beside.

    Args:
        base: the weights that the factors adapt, as ``weights=...`` takes them. Where a run goes on that has written
            the folder already, it keeps what that says.
    """

    #: After hooks that average weights.
    priority = "LOWEST"

    def __init__(self, base: str | None = None) -> None:
        self.base = base

    def before_train(self, runner: Runner) -> None:
        """Look for the folder of the run that goes on."""
        path = Path(runner.work_dir, FOLDER)
        if runner._resume and (path / peft_folder.CONFIG).is_file():
            self.base = peft_folder.read(path).base or self.base

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write the folder from a checkpoint."""
        if is_main_process():
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            write_folder(Path(runner.work_dir, FOLDER), model, checkpoint["state_dict"], self.base)


def write_folder(path: Path, model: nn.Module, state: Mapping[str, Tensor], base: str | None) -> None:
    """Write what was trained of a whole model.

    Args:
        path: the folder.
        model: with one backbone that has low-rank factors.
        state: its tensors of any shape, or their averages.
        base: the weights that the factors adapt.
    """
    place, adapter = _backbone_of(model)
    assert adapter.low_rank is not None, "a run that writes peft folders tunes its backbone"
    prefix = f"{place}.trunk."
    trained = adapter.low_rank.trained_names(adapter.trunk)
    # Copies, since heads of DETR's kind share tensors under several names.
    rest = {name: tensor.contiguous().clone() for name, tensor in state.items() if not name.startswith(prefix)}
    peft_folder.write(path, adapter.low_rank, {name: state[prefix + name] for name in trained}, base)
    with atomic_write(path / REST) as partial:
        save_file(rest, str(partial))


def save_folders(cfg: Config, base: str | None) -> None:
    """Have a training write folders of peft's.

    Args:
        cfg: changed in place.
        base: the weights that the factors adapt.

    Raises:
        ValueError: the config's backbone is not tuned so.
    """
    if not find_owner(cfg.model)[0]["backbone"].get("peft"):
        raise ValueError(
            "--save-peft writes low-rank factors, and the config's backbone has none: give it peft=dict(type='LoRA', "
            "...), or `--cfg-options model.backbone.peft.type=LoRA`."
        )
    if base and Path(base).exists():
        base = str(Path(base).resolve())
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()), dict(type=PeftFolderHook.__name__, base=base)]


def weights_of_backbone(model: Mapping[str, Any]) -> str | None:
    """Return the weights that the config of a model names for its backbone."""
    backbone = model.get("backbone") or model.get("detector", {}).get("backbone") or {}
    return backbone.get("weights") or (backbone.get("init_cfg") or {}).get("checkpoint")


def settle_for(model: nn.Module, contents: dict[str, Any]) -> str:
    """Merge the low-rank factors of a whole model's checkpoint where the model has none.

    Args:
        model: that the checkpoint is for.
        contents: of :func:`adapters.openmmlab.whole_model.read_model`, changed in place.

    Returns:
        A note where the one has factors and the other has none.
    """
    state = contents["state_dict"]
    saved, own = (any(map(is_factor, names)) for names in (state, model.state_dict()))
    if saved and not own:
        merged, count = settle_factors(state, merged=True)
        contents["state_dict"] = OrderedDict(merged)
        vars(contents["state_dict"]).update(vars(state))
        return f"the low-rank factors of {count} layers are merged, since the config has no peft=..." if count else ""
    return "it holds no low-rank factors: those of the model start without effect" if own and not saved else ""


@contextmanager
def as_checkpoint(cfg: Config, name: str) -> Iterator[str]:
    """Give a whole model's checkpoint, which a folder of peft's and the weights that it names make; others as they are.

    Args:
        cfg: of the model.
        name: of a checkpoint or of a folder.

    Raises:
        ValueError: the folder holds no neck and heads, or does not fit the config's backbone.
    """
    path = peft_folder.find(name) if "://" not in name else None
    if path is None:
        yield name
        return
    if not (path / REST).is_file():
        raise ValueError(
            f"{name} holds a backbone's low-rank factors alone, and a test needs the neck and the heads: `train "
            f"--save-peft` writes them beside, as {REST}."
        )
    config = Config(cfg.model.to_dict())
    drop_pretrained(config)
    model = MODELS.build(config)
    place, adapter = _backbone_of(model)
    load_weights(adapter, Source(name))
    state = {f"{place}.{key}": tensor for key, tensor in adapter.state_dict().items()}
    with TemporaryDirectory() as scratch:
        whole = Path(scratch, f"{path.name}.pth")
        torch.save({"meta": {}, "state_dict": {**state, **read_file(path / REST)}}, whole)
        yield str(whole)


def _backbone_of(model: nn.Module) -> tuple[str, BackboneAdapter]:
    """Return the one adapter in a model, and its place.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, BackboneAdapter)]
    if len(found) != 1:
        raise ValueError(
            f"folders of peft's are for models with one timm backbone; {type(model).__name__} has {len(found)}."
        )
    return found[0]
