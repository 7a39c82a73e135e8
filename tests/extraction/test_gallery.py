"""Colours, sheets and the gallery, which opens from a file in a browser."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import make_images, picture, tiny_extractor

from adapters.extraction.gallery import Features, draw_gallery
from adapters.extraction.inputs import find_images
from adapters.extraction.run import run_extraction
from adapters.extraction.sheets import CAPTION, GAP, PANEL, Basis, Panel, draw_sheet, level_picture


def test_colours_are_the_principal_components_of_all_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 5.0, 0.1, 3.0, 2.0])[:, None, None]
    maps = [torch.randn(5, height, 6, generator=generator) * scales + 10 for height in (4, 9, 30)]
    cells = torch.cat([m.flatten(1) for m in maps], dim=1).T.double()
    centred = cells - cells.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    basis = Basis.fit(iter(maps))
    torch.testing.assert_close((basis.components * directions[:3].T).sum(0).abs(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(basis.spread, singular[:3] / len(cells) ** 0.5)
    assert (basis.components.gather(0, basis.components.abs().argmax(0, keepdim=True)) > 0).all()
    colours = basis.colours(maps[1])
    along = (maps[1].flatten(1).T.double() - basis.mean) @ basis.components / basis.spread / 2.5
    expected = ((along.clamp(-1, 1) / 2 + 0.5) * 255).round().view(9, 6, 3)
    assert np.array_equal(colours, expected.numpy().astype(np.uint8))


def test_one_scale_for_all_images() -> None:
    """The same features have the same colour in every image, whatever else is in it."""
    first, second = torch.randn(8, 4, 4), torch.randn(8, 5, 7) * 3
    second[:, 0, 0] = first[:, 2, 2]
    basis = Basis.fit([first, second])
    assert np.array_equal(basis.colours(first)[2, 2], basis.colours(second)[0, 0])


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_and_no_variance(channels: int) -> None:
    maps = [torch.full((channels, 3, 4), 7.0)]
    assert (Basis.fit(maps).colours(maps[0]) == 128).all()


def test_a_cell_covers_its_stride() -> None:
    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shown = np.asarray(level_picture(colours, 8, (13, 20)))
    assert shown.shape == (13, 20, 3)
    assert (shown[:8, 8:16] == colours[0, 1]).all()
    assert (shown[8:, 16:] == colours[1, 2]).all()


def test_a_sheet_holds_its_panels() -> None:
    red, blue = (Image.new("RGB", (64, 32), colour) for colour in ("red", "blue"))
    sheet = np.asarray(draw_sheet([("one", [Panel("a", red), Panel("b", blue)]), ("two", [Panel("c", blue)])]))
    height = PANEL // 2
    top = GAP + CAPTION
    assert (sheet[top : top + height, GAP : GAP + PANEL] == (255, 0, 0)).all()
    assert (sheet[top : top + height, GAP + PANEL + GAP : GAP + 2 * PANEL + GAP] == (0, 0, 255)).all()
    below = top + height + CAPTION + GAP + CAPTION
    assert (sheet[below : below + height, GAP : GAP + PANEL] == (0, 0, 255)).all()


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two models, over images one of which has an awkward name, and one is broken."""
    images = make_images(tmp_path_factory.mktemp("images"), 3)
    picture(50, 70, np.random.default_rng(1)).save(images / "a <b> & 'c' 100%#.png")
    out = tmp_path_factory.mktemp("gallery")
    models = {}
    for seed, title in enumerate(("first <model>", "second")):
        models[title] = out / f"model{seed}"
        run_extraction(find_images([images]), tiny_extractor(seed=seed), models[title], 0, progress=False)
    return draw_gallery(out, models)


def test_the_gallery_shows_every_image(gallery: Path) -> None:
    page = Page(gallery.read_text())
    assert page.tags.count("figure") == page.tags.count("img") == len(page.links) == 4
    assert len(set(page.links)) == 4
    for link in page.links:
        assert "://" not in link
        with Image.open(gallery.parent / unquote(link)) as sheet:
            assert sheet.width > 5 * 150
    assert "first <model>" in page.text
    assert "a <b> & 'c' 100%#.png" in page.text
    assert "broken.jpg: not an image that Pillow can read" in page.text


def test_a_sheet_shows_the_image_as_fed(gallery: Path) -> None:
    features = Features("model", gallery.parent / "model0")
    for path in features.rows:
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(features.fed_image(path)), np.asarray(image))


def test_an_image_that_has_changed_since_is_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(40, 50, np.random.default_rng(0)).save(tmp_path / f"{name}.png")
    run_extraction(find_images([tmp_path]), tiny_extractor(), tmp_path / "out", 0, progress=False)
    picture(50, 40, np.random.default_rng(0)).save(tmp_path / "b.png")
    page = Page(draw_gallery(tmp_path, {"model": tmp_path / "out"}).read_text())
    assert page.tags.count("figure") == 1
    assert "b.png: the file has changed since it was extracted" in page.text


def test_the_same_gallery_again(gallery: Path) -> None:
    before = {file: file.read_bytes() for file in gallery.parent.glob("sheets/*")}
    draw_gallery(gallery.parent, {"first <model>": gallery.parent / "model0", "second": gallery.parent / "model1"})
    assert {file: file.read_bytes() for file in gallery.parent.glob("sheets/*")} == before


def test_the_gallery_opens_in_a_browser(gallery: Path, tmp_path: Path) -> None:
    """From a file, every sheet loaded. Where there is no Chromium, the page's text has to do: no script, no address."""
    text = gallery.read_text()
    assert "<script" not in text
    assert "http" not in text
    if not (browser := shutil.which("chromium") or shutil.which("chromium-browser")):
        return
    probe = "<script>onload=()=>{document.title=[...document.images].map(i=>i.naturalWidth).join()}</script>"
    probed = gallery.with_name("probed.html")
    probed.write_text(text.replace(' loading="lazy"', "").replace("</head>", f"{probe}</head>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --dump-dom"
    )
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path}", probed.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    widths = shown.split("<title>")[1].split("</title>")[0]
    expected = []
    for link in Page(text).links:
        with Image.open(gallery.parent / unquote(link)) as sheet:
            expected.append(str(sheet.width))
    assert widths == ",".join(expected)


def test_an_unfinished_extraction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no manifest.parquet: let the extraction finish"):
        draw_gallery(tmp_path, {"model": tmp_path})
