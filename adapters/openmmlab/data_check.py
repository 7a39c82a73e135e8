"""A check that the data of a config exist, made before a run starts.

mmdet and mmseg find out late, and their message names a file, not the remedy.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Classes of the dataset that ``tools/make_shapes.py`` draws, and that script, which only a clone has.
SHAPES = frozenset({"ellipse", "rectangle", "triangle", "star", "ring", "cross"})
SHAPES_SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "make_shapes.py"
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def check_dataset(cfg: Mapping[str, Any], loaders: tuple[str, ...] = _LOADERS) -> None:
    """Check that the files and folders of a config's datasets exist.

    Args:
        cfg: an mmengine ``Config``, or a mapping like it.
        loaders: its data loaders to check; those that it lacks are passed over.

    Raises:
        FileNotFoundError: something is missing. The message names the path, the setting of the config that
            asks for it, and what to do: for a dataset of shapes the command that draws it.
    """
    for loader in loaders:
        if cfg.get(loader):
            for where, dataset in _datasets(cfg[loader]["dataset"], f"{loader}.dataset"):
                _check(dataset, where)


def _datasets(dataset: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Datasets below wrappers such as RepeatDataset and ConcatDataset, each with its place in the config."""
    if "dataset" in dataset:
        yield from _datasets(dataset["dataset"], f"{where}.dataset")
    elif "datasets" in dataset:
        for index, part in enumerate(dataset["datasets"]):
            yield from _datasets(part, f"{where}.datasets[{index}]")
    else:
        yield where, dataset


def _check(dataset: Mapping[str, Any], where: str) -> None:
    root = dataset.get("data_root") or ""
    named: list[tuple[str, str]] = [("data_root", root)] if root else []
    if dataset.get("ann_file"):
        named.append(("ann_file", dataset["ann_file"]))
    named += [(f"data_prefix.{key}", prefix) for key, prefix in (dataset.get("data_prefix") or {}).items()]
    for setting, name in named:
        if not isinstance(name, str) or "://" in name or "://" in root:
            continue  # a list of prefixes, or a remote store: for the dataset itself to judge
        path = Path(name) if setting == "data_root" else Path(root, name)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist (from {Path.cwd()}); the config asks for it as {where}.{setting}. "
                + _remedy(dataset, root, where)
            )


def _remedy(dataset: Mapping[str, Any], root: str, where: str) -> str:
    own_data = f"say where it is with `--cfg-options {where}.data_root=PATH`"
    classes = (dataset.get("metainfo") or {}).get("classes") or ()
    if not set(classes) >= SHAPES:
        return f"Put the dataset there, or {own_data}."
    if not SHAPES_SCRIPT.is_file():
        return f"A clone of dense-adapters draws this dataset with `python tools/make_shapes.py`: {own_data}."
    here = SHAPES_SCRIPT.is_relative_to(Path.cwd())
    script = SHAPES_SCRIPT.relative_to(Path.cwd()) if here else SHAPES_SCRIPT
    return f"Draw the dataset with `python {script} --out {root.rstrip('/')}`."
