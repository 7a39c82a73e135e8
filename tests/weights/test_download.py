"""Paths, URLs and the hub; nothing here leaves this machine."""

import http.server
import json
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from small_checkpoints import assert_holds, load_twins, save, twins

from adapters.weights import download

PAYLOAD = b"some bytes of a checkpoint" * 1000


class Server(http.server.ThreadingHTTPServer):
    """Serves files of a folder on this machine and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        file = self.server.folder / self.path.split("/")[-1].split("?")[0]
        if not file.exists():
            self.send_error(404)
            return
        body = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if "broken" in self.path else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def cached() -> list[str]:
    return sorted(path.name for path in download.cache_folder().iterdir() if path.suffix != ".lock")


def test_a_url_is_downloaded_once(server: Server) -> None:
    (server.folder / "a.pth").write_bytes(PAYLOAD)
    first = download.locate(server.url("a.pth"))
    assert first.read_bytes() == PAYLOAD
    assert download.locate(server.url("a.pth")) == first
    assert server.asked == ["/a.pth"]
    assert cached() == [first.name]


def test_urls_that_end_alike_are_told_apart(server: Server) -> None:
    (server.folder / "a.pth").write_bytes(PAYLOAD)
    one, other = download.locate(server.url("one/a.pth")), download.locate(server.url("other/a.pth"))
    assert one != other
    assert one.name.endswith("-a.pth")


def _fetch(url: str, barrier: Any, results: Any) -> None:
    barrier.wait()
    results.put(download.locate(url).read_bytes() == PAYLOAD)


def test_processes_that_ask_at_once_download_once(server: Server) -> None:
    (server.folder / "a.pth").write_bytes(PAYLOAD)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    ranks = [context.Process(target=_fetch, args=(server.url("a.pth"), barrier, results)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    assert [results.get(timeout=60) for _ in ranks] == [True] * 3
    for rank in ranks:
        rank.join()
    assert server.asked == ["/a.pth"]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("broken.pth", PAYLOAD, r"the connection broke after \d+ of 26000 bytes"),
        ("missing.pth", None, r"could not be downloaded.*404"),
        ("page.pth", b"<!doctype html><html>log in first</html>", "leads to a web page"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(server: Server, name: str, body: bytes | None, message: str) -> None:
    if body is not None:
        (server.folder / name).write_bytes(body)
    with pytest.raises(ValueError, match=message):
        download.locate(server.url(name))
    assert cached() == []


def test_a_server_that_is_not_there(server: Server) -> None:
    url = server.url("a.pth")
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"could not be downloaded.*give the path of the file"):
        download.locate(url)


def test_weights_from_a_url_and_from_a_file_url(server: Server) -> None:
    model = twins()
    path = server.folder / "twins.safetensors"
    save_file(model.state_dict(), str(path))
    assert_holds(load_twins(server.url("twins.safetensors")), model.state_dict())
    assert_holds(load_twins(path.as_uri()), model.state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/a.pth", r"is no file \(looked at /.*nowhere/a\.pth\); give 'timm', a path"),
        ("open-mmlab://twins", "open-mmlab:// is not supported; give 'timm', a path"),
        ("timm_weights", "is no file"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        download.locate(name)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save({}, tmp_path / "a.pth")
    assert download.locate("~/a.pth") == tmp_path / "a.pth"


def test_a_name_on_the_hub(hub: list[str]) -> None:
    assert_holds(load_twins("hf-hub:somebody/twins"), twins().state_dict())
    assert hub == ["somebody/twins/model.safetensors"]


def test_a_repository_in_shards_with_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    state = twins().state_dict()
    save(dict(list(state.items())[:9]), tmp_path / "one.bin")
    save(dict(list(state.items())[9:]), tmp_path / "two.bin")
    index = {"weight_map": {name: "one.bin" if number < 9 else "two.bin" for number, name in enumerate(state)}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    asked: list[str] = []

    def fetch(repo_id: str, filename: str, revision: str, **_: Any) -> str:
        asked.append(f"{repo_id}@{revision}/{filename}")
        if not (tmp_path / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", fetch)
    assert_holds(load_twins("hf-hub:somebody/twins@v1"), state)
    assert asked[-2:] == ["somebody/twins@v1/one.bin", "somebody/twins@v1/two.bin"]
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ValueError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        load_twins("hf-hub:somebody/twins")
