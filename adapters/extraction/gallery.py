"""A gallery of extracted features: a sheet per image, and a page that opens without a server."""

import html
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from adapters.extraction.disk import remove_partial_files, write_file
from adapters.extraction.manifest import read_manifest
from adapters.extraction.preprocessing import Preprocessing
from adapters.extraction.read_image import ImageReader
from adapters.extraction.records import OK
from adapters.extraction.run_folder import SETTINGS
from adapters.extraction.sheets import Basis, Panel, draw_sheet, level_picture
from adapters.extraction.stored import UnreadableImageError
from adapters.extraction.tones import Tones
from adapters.files import read_json

SHEETS, PAGE = "sheets", "index.html"

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1600px; padding: 0 1em; color: #333; }
figure { margin: 0 0 2em; } img { max-width: 100%; height: auto; display: block; }
figcaption, li { overflow-wrap: anywhere; color: #666; }
"""


class Features:
    """The features of one model, in the folder of a finished extraction.

    Args:
        title: the model's title.
        folder: the extraction's folder.

    Raises:
        ValueError: the extraction has not finished, or holds no pyramid.
    """

    def __init__(self, title: str, folder: Path) -> None:
        self.title = title
        self.folder = folder
        rows = read_manifest(folder)
        self.rows = {row["path"]: row for row in rows if row["status"] == OK}
        self.failures = {row["path"]: row["reason"] for row in rows if row["status"] != OK}
        self.settings: dict[str, Any] = read_json(folder / SETTINGS)
        if "pyramid" not in self.settings["outputs"]:
            raise ValueError(f"{folder} holds no pyramid to draw: extract with --outputs pyramid.")
        size = self.settings["size"]
        recorded: dict[str, Any] = self.settings["preprocessing"]
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in recorded.items()}
        self.preprocessing = Preprocessing(**fields, size=tuple(size) if isinstance(size, list) else size)
        scale = {key: self.settings[key] for key in ("black", "white") if key in self.settings}
        percentiles = self.settings.get("percentiles")
        tones = Tones(**scale, percentiles=tuple(percentiles) if percentiles else None)
        self.reader = ImageReader(len(self.preprocessing.mean), float("inf"), tones)
        self.levels: list[tuple[int, int]] = [(channels, stride) for channels, stride in self.settings["levels"]]
        self.bases = [Basis.fit(self._maps(level)) for level in range(len(self.levels))] if self.rows else []

    def _maps(self, level: int) -> Iterator[Tensor]:
        for row in self.rows.values():
            yield load_file(self.folder / row["file"])[f"level{level}"]

    def fed_image(self, path: str) -> Image.Image:
        """Return the image as the model got it, before normalisation; of other bands than RGB the first three, or grey.

        Raises:
            UnreadableImageError: the file is gone, or has changed since it was extracted.
        """
        row = self.rows[path]
        picture = self.reader.read(Path(path))
        if picture.size != (row["original_height"], row["original_width"]):
            raise UnreadableImageError("the file has changed since it was extracted")
        pixels = self.preprocessing.scale(picture.pixels).round().to(torch.uint8).numpy()
        return Image.fromarray(pixels[0] if len(pixels) < 3 else pixels[:3].transpose(1, 2, 0)).convert("RGB")

    def panels(self, path: str) -> list[Panel]:
        """Return panels of the image and of its levels."""
        row = self.rows[path]
        size = (row["fed_height"], row["fed_width"])
        tensors = load_file(self.folder / row["file"])
        found = [Panel(f"{size[0]} x {size[1]}", self.fed_image(path))]
        for index, ((channels, stride), basis) in enumerate(zip(self.levels, self.bases, strict=True)):
            picture = level_picture(basis.colours(tensors[f"level{index}"]), stride, size)
            found.append(Panel(f"level {index}: stride {stride}, {channels} ch.", picture))
        return found


def draw_gallery(out: Path, models: Mapping[str, Path]) -> Path:
    """Draw a sheet per image, with a row for each model, and the page that shows them.

    Args:
        out: the folder that gets ``index.html`` and ``sheets/``.
        models: folders of finished extractions by title. Images that one of them lacks are listed, not drawn.

    Returns:
        The path of the page.

    Raises:
        ValueError: an extraction has not finished or holds no pyramid, or the disk is full.
    """
    features = [Features(title, folder) for title, folder in models.items()]
    (out / SHEETS).mkdir(parents=True, exist_ok=True)
    remove_partial_files(out / SHEETS)
    common = [path for path in features[0].rows if all(path in other.rows for other in features)]
    missing = {path: reason for model in features for path, reason in model.failures.items()}
    figures = []
    for path in tqdm(common, unit="sheet", dynamic_ncols=True, disable=None):
        name = f"{Path(features[0].rows[path]['file']).stem}.png"
        try:
            sheet = draw_sheet([(model.title, model.panels(path)) for model in features])
        except UnreadableImageError as error:
            missing[path] = str(error)
            continue
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        write_file(out / SHEETS / name, buffer.getvalue())
        figures.append(_figure(f"{SHEETS}/{name}", path, sheet.size))
    write_file(out / PAGE, _page([model.title for model in features], figures, missing).encode())
    return out / PAGE


def _figure(source: str, path: str, size: tuple[int, int]) -> str:
    name = html.escape(path)
    return (
        f'<figure><img src="{quote(source)}" alt="feature maps of {name}" width="{size[0]}" height="{size[1]}" '
        f'loading="lazy"><figcaption>{name}</figcaption></figure>'
    )


def _page(titles: list[str], figures: list[str], missing: Mapping[str, str]) -> str:
    title = html.escape("Features of " + " and ".join(titles))
    failed = "".join(f"<li>{html.escape(path)}: {html.escape(reason)}</li>" for path, reason in missing.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>
<body>
<h1>{title}</h1>
<p>{len(figures)} images. Each level is coloured by the three directions in which it varies most over all images, so a
colour means the same in every sheet of a model and level; levels and models have colours of their own.</p>
{chr(10).join(figures)}
{f"<h2>Not shown</h2><ul>{failed}</ul>" if missing else ""}
</body>
</html>
"""
