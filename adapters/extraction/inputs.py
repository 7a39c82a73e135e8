"""Input images: folders, globs, lists of paths and COCO annotations become one list of image files."""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

#: Files that a folder is searched for. A file that is named itself may have any name.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".jp2", ".j2k", ".gif", ".bmp", ".tga"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".npy"),
)


def find_images(
    sources: Sequence[str | os.PathLike[str]], image_root: Path | None = None, exclude: Path | None = None
) -> list[Path]:
    """List the images that ``sources`` stand for, as absolute paths, each once, in the order in which they are named.

    Args:
        sources: images, folders (searched with all below them, links to folders too, in the order of their names; what
            has an image's name and is none, such as a link to nowhere, is listed, so that it fails where it is read),
            globs, text files with a path per line (from the working directory, or from where the text file lies), COCO
            json files.
        image_root: the folder from which a COCO json names its images; looked for beside the json by default.
        exclude: a folder whose files do not count, such as that of the results.

    Raises:
        ValueError: a source does not exist, cannot be read, or holds no images.
    """
    found: dict[Path, None] = {}
    for source in sources:
        files = [Path(os.path.abspath(file)) for file in _expand(os.fspath(source), image_root)]
        if exclude is not None:
            outside = Path(os.path.abspath(exclude))
            files = [file for file in files if outside not in file.parents]
        if not files:
            raise ValueError(f"{os.fspath(source)!r} holds no images: their names end in {' '.join(SUFFIXES)}.")
        found.update(dict.fromkeys(files))
    if not found:
        raise ValueError("no input: name images, folders, globs, a text file of paths or a COCO json.")
    return list(found)


def _expand(source: str, image_root: Path | None) -> Iterable[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if path.suffix.lower() == ".txt":
            return list(_in_list(path))
        if path.suffix.lower() == ".json":
            return _in_coco(path, image_root)
        return [path]
    if glob.has_magic(source):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        return [file for match in matches for file in (_in_folder(match) if match.is_dir() else [match])]
    if os.path.lexists(path):
        return [path]
    raise ValueError(f"there is no {source!r} (from {Path.cwd()}).")


def _in_folder(folder: Path) -> list[Path]:
    found: list[Path] = []
    above: dict[str, set[tuple[int, int]]] = {}
    unreadable: list[OSError] = []
    for where, below, names in os.walk(folder, followlinks=True, onerror=unreadable.append):
        here = os.stat(where)
        seen = above.pop(where, set())
        if (here.st_dev, here.st_ino) in seen:  # a link to a folder that it lies in
            below.clear()
            continue
        seen = seen | {(here.st_dev, here.st_ino)}
        above.update({os.path.join(where, name): seen for name in below})
        found += [Path(where, name) for name in names if _is_named_as_image(name)]
        if not below and not names and _is_named_as_image(where):
            found.append(Path(where))
    if unreadable:
        raise ValueError(f"{unreadable[0].filename} cannot be searched: {unreadable[0].strerror}.")
    return sorted(found)


def _is_named_as_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _in_list(path: Path) -> Iterator[Path]:
    # Windows' editors begin a file with a mark.
    for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
        if name := line.strip():
            here = Path(name).expanduser()
            yield here if os.path.lexists(here) else path.parent / here


def _in_coco(path: Path, image_root: Path | None) -> list[Path]:
    try:
        names = [str(image["file_name"]) for image in json.loads(path.read_text(encoding="utf-8"))["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no COCO json: 'images', a list whose items have a 'file_name', is what is read "
            f"({type(error).__name__}: {error})."
        ) from error
    if not names:
        return []
    roots = [image_root] if image_root is not None else list(_likely_roots(path))
    root = next((root for root in roots if os.path.lexists(root / names[0])), None)
    if root is None:
        looked = ", ".join(map(str, roots))
        raise ValueError(f"{path} names {names[0]!r}, which is not in {looked}; give the folder with --image-root.")
    return [root / name for name in names]


def _likely_roots(path: Path) -> Iterator[Path]:
    """Yield the json's folder, the one above, and the split's folders, whose names are in the json's, as in COCO."""
    above = path.absolute().parent.parent
    yield from (path.parent, above)
    for folder in (above, above / "images"):
        if folder.is_dir():
            yield from sorted(sub for sub in folder.iterdir() if sub.is_dir() and sub.name in path.stem)
