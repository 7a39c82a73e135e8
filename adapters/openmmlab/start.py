"""The checkpoint from which a run starts or goes on: which one, and that it fits the model of the config."""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from adapters.openmmlab.checkpoint_hook import latest_checkpoint
from adapters.openmmlab.checkpoint_parts import Fit, build_model
from adapters.openmmlab.config_tree import drop_pretrained, place_of_backbone
from adapters.openmmlab.model_checkpoint import check_partial, check_whole
from adapters.openmmlab.peft_folders import settle_for
from adapters.openmmlab.whole_model import read_as_mmengine, read_model, read_run
from adapters.trunk.factor_names import is_factor
from adapters.weights.download import locate


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run may start from.

    Attributes:
        notes: lines for the log.
        left_out: names of its tensors that are not to be loaded.
        gives_backbone: it holds the whole backbone, without low-rank factors, for a training that begins with it.
    """

    notes: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    gives_backbone: bool = False


def choose_start(cfg: Config, resume: str | None) -> list[str]:
    """Decide from which checkpoint a training goes on or starts, if any; an argument comes before the config.

    Args:
        cfg: its ``load_from`` and ``resume`` are set.
        resume: a checkpoint to go on from; ``'auto'`` for the latest one in the work directory.

    Returns:
        Notes for the user.

    Raises:
        ValueError: the checkpoint does not exist.
    """
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    if resume is None:
        if cfg.get("load_from"):
            existing_checkpoint(cfg.load_from)
        return []
    path = latest_checkpoint(cfg.work_dir) if resume == "auto" else existing_checkpoint(resume)
    cfg.resume = path is not None
    if path is None:
        return [f"nothing to resume in {cfg.work_dir}: training starts from the beginning"]
    cfg.load_from = path
    return [f"resuming from {path}"]


def existing_checkpoint(name: str) -> str:
    """Return the name of a checkpoint, which must exist unless it is a URL.

    Raises:
        ValueError: it does not exist, or is a URL of a kind that is not fetched.
    """
    scheme, separator, _ = name.partition("://")
    if separator and scheme not in ("http", "https", "file"):
        raise ValueError(f"the checkpoint {name!r} must be a path, or a URL of http://, https:// or file://.")
    if not separator and not Path(name).expanduser().exists():
        raise ValueError(f"there is no checkpoint {name!r} (from {Path.cwd()}).")
    return name


def check_start(cfg: Config, *, to_train: bool) -> Start:
    """Check the checkpoint from which a run starts or goes on, if any.

    A test and a resumed training need all of the model; another training takes the parts of it that are there.

    Args:
        cfg: as :func:`choose_start` leaves it. What would load pretrained weights that the checkpoint replaces is
            removed, since mmengine initialises the weights before it loads a checkpoint.
        to_train: the run is a training.

    Raises:
        ValueError: the checkpoint cannot be read, or is of another model.
    """
    name = cfg.get("load_from")
    if not name:
        return Start()
    if cfg.get("resume") and Path(name).is_dir():
        return _folder_of_deepspeed(cfg, name)
    if "runner_type" in cfg:  # its loading is not ours
        read_as_mmengine(name)
        cfg.load_from = str(locate(name))
    contents = read_run(name) if cfg.get("resume") else read_model(name)
    model = build_model(cfg)
    settled = "" if cfg.get("resume") else settle_for(model, contents)
    if to_train and not cfg.get("resume"):
        fit, told = check_partial(model, contents, name)
    else:
        fit, told = check_whole(model, contents, name)
    notes = [told, *([settled] if settled else []), *_set_aside(cfg, name, fit)]
    if cfg.get("resume") and "optimizer" not in contents:
        notes.append(f"{name} holds no state of the optimiser, which starts afresh")
    is_tuned = any(map(is_factor, contents["state_dict"]))
    gives_backbone = to_train and not cfg.get("resume") and not is_tuned and fit.covers(place_of_backbone(cfg.model))
    return Start(tuple(notes), frozenset(fit.left_out), gives_backbone)


def _set_aside(cfg: Config, name: str, fit: Fit | None) -> list[str]:
    """Remove what would load or download pretrained weights of the parts that a checkpoint holds; return notes."""
    sources = drop_pretrained(cfg.model, lambda place: fit is None or fit.covers(place))
    if not sources:
        return []
    return [f"pretrained weights set aside, {name} replaces them: {', '.join(dict.fromkeys(sources))}"]


def _folder_of_deepspeed(cfg: Config, name: str) -> Start:
    """Leave a folder to DeepSpeed, which loads it strictly."""
    if "runner_type" not in cfg:
        raise ValueError(
            f"{name} is a folder, as DeepSpeed writes its checkpoints: to resume it, the config needs the runner and "
            "the strategy that wrote it (runner_type='FlexibleRunner')."
        )
    return Start((f"{name} is a folder, which DeepSpeed itself checks", *_set_aside(cfg, name, None)))
