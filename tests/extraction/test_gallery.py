"""Colours, sheets and the gallery, which opens from a file in a browser."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from small_images import make_images, picture, tiny_extractor

from adapters.extraction.gallery import Features, draw_gallery
from adapters.extraction.inputs import find_images
from adapters.extraction.run import run_extraction


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
