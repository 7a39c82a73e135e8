"""The dataset on disk: COCO json for instances, ADE-style label maps for classes.

::

    OUT/settings.json                            what it was drawn with; written last
    OUT/images/{train,val}/000000.jpg
    OUT/annotations/instances_{train,val}.json   COCO; masks as run lengths, since rings have holes
    OUT/annotations/{train,val}/000000.png       one channel; 0 is the background, a class, else category id

ADE20K keeps 0 for "none of the classes", and mmseg's ``reduce_zero_label=True`` ignores it. Here every pixel
is known, and a model that paints over the background must pay for it, so 0 is a class of its own: read these
maps with ``reduce_zero_label=False``.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from adapters.files import read_json, write_text
from lab.shapes.outlines import CLASSES
from lab.shapes.photographs import PHOTOGRAPHS, photograph_folder
from lab.shapes.scene import Scene, draw_scene

VERSION = 2
"""Of the drawing; raised when the same settings give other images."""
SPLITS: tuple[str, ...] = tuple(PHOTOGRAPHS)
SIZE_LIMITS = (64, 1024)
OBJECT_LIMITS = (4, 32)
JPEG_QUALITY = 92
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class ShapesSettings:
    """Everything that the dataset depends on.

    Attributes:
        train, val: numbers of images.
        seed: non-negative.
        size_range: least and greatest side of an image in pixels; height and width are drawn independently.
        object_sides: least and greatest side of the objects' boxes in pixels, for small ones; None for large ones,
            which overlap.

    Raises:
        ValueError: a number is out of range.
    """

    train: int = 600
    val: int = 80
    seed: int = 0
    size_range: tuple[int, int] = (128, 192)
    object_sides: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, number in (("train", self.train), ("val", self.val)):
            if number < 1:
                raise ValueError(f"{name}={number} images: at least 1 is needed.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be 0 or more.")
        least, greatest = self.size_range
        if not SIZE_LIMITS[0] <= least <= greatest <= SIZE_LIMITS[1]:
            raise ValueError(
                f"size_range={least} {greatest} must be two sides in pixels, the smaller one first, "
                f"both within {SIZE_LIMITS[0]}..{SIZE_LIMITS[1]}."
            )

        if self.object_sides is not None:
            least, greatest = self.object_sides
            # The sides of an oblong shape differ; a narrower range would leave it out.
            if not OBJECT_LIMITS[0] <= least < greatest <= OBJECT_LIMITS[1] or greatest < 2 * least:
                raise ValueError(
                    f"object_sides={least} {greatest} must be two sides in pixels within "
                    f"{OBJECT_LIMITS[0]}..{OBJECT_LIMITS[1]}, the second at least twice the first, such as 4 12."
                )

    def record(self) -> dict[str, Any]:
        """Return the settings as ``settings.json`` holds them; what is None is left out, as older files have it."""
        held = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"version": VERSION, **{key: value for key, value in held.items() if value is not None}}


def make_dataset(out: Path, settings: ShapesSettings, overwrite: bool = False) -> bool:
    """Draw the dataset into the folder ``out``, unless it is there already.

    The same settings give the same bytes. The folder appears complete or not at all.

    Args:
        out: the dataset's folder.
        settings: what to draw.
        overwrite: replace a dataset of other settings.

    Returns:
        Whether anything was drawn.

    Raises:
        ValueError: ``out`` holds a dataset of other settings, or something else.
        ModuleNotFoundError, FileNotFoundError: scikit-image or one of its photographs is missing.
    """
    if _is_there(out, settings, overwrite):
        return False
    photograph_folder()  # before the first folder is made
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        staging.chmod(0o755)  # mkdtemp's is for the owner alone
        with tqdm(total=settings.train + settings.val, unit="image", desc=f"drawing {out}") as progress:
            for index, split in enumerate(SPLITS):
                _write_split(staging, split, index, settings, progress)
        _write_json(staging / SETTINGS_FILE, settings.record())
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return True


def _is_there(out: Path, settings: ShapesSettings, overwrite: bool) -> bool:
    if not out.exists():
        return False
    record = out / SETTINGS_FILE
    if not record.is_file():
        if out.is_dir() and not any(out.iterdir()):
            return False
        raise ValueError(f"{out} exists and is no dataset of shapes: give another folder with --out.")
    found, wanted = read_json(record), settings.record()
    if found == wanted:
        return True
    if not overwrite:
        keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        differences = ", ".join(f"{key} {found.get(key)} instead of {wanted.get(key)}" for key in keys)
        raise ValueError(
            f"{out} holds a dataset of other settings ({differences}): replace it with --overwrite, "
            "or give another folder with --out."
        )
    return False


def _write_split(root: Path, split: str, index: int, settings: ShapesSettings, progress: tqdm) -> None:
    images, maps = root / "images" / split, root / "annotations" / split
    images.mkdir(parents=True)
    maps.mkdir(parents=True)
    coco: dict[str, Any] = {
        "info": {"description": f"shapes over photographs, {split}", "version": str(VERSION)},
        "licenses": [],
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(CLASSES)],
        "images": [],
        "annotations": [],
    }
    for number in range(getattr(settings, split)):
        # A stream of its own for every image: the first ones stay the same when more are asked for.
        rng = np.random.default_rng([settings.seed, index, number])
        scene = draw_scene(split, settings.size_range, rng, settings.object_sides)
        name = f"{number:06d}"
        Image.fromarray(scene.image).save(images / f"{name}.jpg", quality=JPEG_QUALITY)
        Image.fromarray(scene.label_map()).save(maps / f"{name}.png")
        height, width = scene.image.shape[:2]
        coco["images"].append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
        coco["annotations"] += _annotations(scene, number, len(coco["annotations"]))
        progress.update()
    _write_json(root / "annotations" / f"instances_{split}.json", coco)


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    return [
        {
            "id": first_id + place,
            "image_id": image_id,
            "category_id": instance.label + 1,
            "bbox": list(instance.box),
            "area": int(instance.mask.sum()),
            "segmentation": _run_lengths(instance.mask),
            "iscrowd": 0,
        }
        for place, instance in enumerate(scene.instances)
    ]


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask ``(H, W)`` as COCO's compressed run lengths, in text that JSON can hold."""
    from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content) + "\n")  # in one line: a COCO file of an entry a line is ten times as long
