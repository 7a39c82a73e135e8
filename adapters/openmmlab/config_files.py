"""Finding a config: a file, a recipe of ours, or one that ships with the installed mmdet or mmseg.

``adapters::detection/NAME`` and ``mmdet::retinanet/NAME`` name files inside installed packages. They are looked up
there and nowhere else: mmengine's own ``get_config`` may install packages and download weights.
"""

import difflib
import importlib.util
from pathlib import Path

from adapters.registry import OPENMMLAB_REMEDY

SEPARATOR = "::"

#: Folders of each package's configs, from its own folder: installed as a wheel, then in a clone.
FOLDERS = {
    "adapters": ("configs", "../configs"),
    "mmdet": (".mim/configs", "../configs"),
    "mmseg": (".mim/configs", "../configs"),
}


def is_config_name(name: str) -> bool:
    """Return whether a word of a command line names a config, where it could be a timm model's name too."""
    return SEPARATOR in name or name.endswith(".py")


def find_config(name: str) -> Path:
    """Find the file of a config.

    Args:
        name: a path, or ``'PACKAGE::NAME'``, where the package is one of :data:`FOLDERS` and ``NAME`` the file's name
            below the package's ``configs``, with or without its folder and ``.py``.

    Raises:
        ValueError: there is no such file, or there are several; near matches are listed.
        ModuleNotFoundError: the package is not installed.
    """
    package, separator, wanted = name.partition(SEPARATOR)
    if not separator:
        if not Path(name).is_file():
            raise ValueError(
                f"there is no config {name!r} (from {Path.cwd()}). A recipe of this package is named like "
                "adapters::retinanet_twins-svt-s_fpn_1x_coco, one that ships with mmdet or mmseg like "
                "mmdet::retinanet_r50_fpn_1x_coco."
            )
        return Path(name)
    if package not in FOLDERS:
        raise ValueError(f"{name!r} names the package {package!r}; it must be one of {', '.join(FOLDERS)}.")
    configs = shipped_configs(package)
    wanted = wanted.removesuffix(".py")
    found = [key for key in configs if wanted in (key, key.rpartition("/")[2])]
    if len(found) == 1:
        return configs[found[0]]
    if found:
        raise ValueError(
            f"{name!r} could be any of {', '.join(f'{package}::{key}' for key in found)}: give the folder."
        )
    raise ValueError(f"{package} ships no config {wanted!r}. {_suggest(package, wanted, list(configs))}")


def shipped_configs(package: str) -> dict[str, Path]:
    """List every config that ships with an installed package, by its name below ``configs``, without ``.py``.

    Raises:
        ValueError: the package keeps no configs.
        ModuleNotFoundError: it is not installed.
    """
    root = config_root(package)
    files = sorted(path for path in root.rglob("*.py") if "_base_" not in path.parts and path.name != "__init__.py")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def config_root(package: str) -> Path:
    """Find the folder of an installed package's configs.

    Raises:
        ValueError: it has none.
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: {OPENMMLAB_REMEDY}.", name=package)
    for folder in FOLDERS[package]:
        root = (Path(spec.origin).parent / folder).resolve()
        if (root / "_base_").is_dir():
            return root
    raise ValueError(f"the installed {package} ({Path(spec.origin).parent}) has no configs; give the path of a file.")


def _suggest(package: str, wanted: str, names: list[str]) -> str:
    """Near matches of a name, or of its folder; failing these, where to look."""
    by_stem = {name.rpartition("/")[2]: name for name in names}
    near = difflib.get_close_matches(wanted.rpartition("/")[2], list(by_stem), n=5, cutoff=0.6)
    matches = [by_stem[stem] for stem in near] or [name for name in names if wanted.lower() in name.lower()][:5]
    if matches:
        return f"Did you mean {', '.join(f'{package}{SEPARATOR}{name}' for name in matches)}?"
    return f"Its configs lie in {config_root(package)}."
