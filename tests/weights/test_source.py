"""Where weights come from: paths, URLs, the hub and timm's tags; nothing here leaves this machine."""

import http.server
import logging
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_checkpoints import SVT, TWINS, assert_holds, load_twins, save, twins

import adapters
from adapters.weights import load as weights
from adapters.weights import source as sources
from adapters.weights.load import resolve_source

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
    return sorted(path.name for path in sources.cache_folder().iterdir() if path.suffix != ".lock")


def test_a_url_is_downloaded_once(server: Server) -> None:
    (server.folder / "a.pth").write_bytes(PAYLOAD)
    first = sources.locate(server.url("a.pth"))
    assert first.read_bytes() == PAYLOAD
    assert sources.locate(server.url("a.pth")) == first
    assert server.asked == ["/a.pth"]
    assert cached() == [first.name]


def test_urls_that_end_alike_are_told_apart(server: Server) -> None:
    (server.folder / "a.pth").write_bytes(PAYLOAD)
    one, other = sources.locate(server.url("one/a.pth")), sources.locate(server.url("other/a.pth"))
    assert one != other
    assert one.name.endswith("-a.pth")


def _fetch(url: str, barrier: Any, results: Any) -> None:
    barrier.wait()
    results.put(sources.locate(url).read_bytes() == PAYLOAD)


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
        sources.locate(server.url(name))
    assert cached() == []


def test_a_server_that_is_not_there(server: Server) -> None:
    url = server.url("a.pth")
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"could not be downloaded.*give the path of the file"):
        sources.locate(url)


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
        sources.locate(name)


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    save({}, tmp_path / "inside.pth")
    with pytest.raises(ValueError, match=r"is a folder; name the checkpoint in it: inside\.pth"):
        sources.locate(str(tmp_path))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save({}, tmp_path / "a.pth")
    assert sources.locate("~/a.pth") == tmp_path / "a.pth"


# timm's own weights and the hub, their client replaced by files of this machine.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that has one repository: a small Twins-SVT as safetensors."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    save_file(twins().state_dict(), str(tmp_path / "model.safetensors"))
    asked: list[str] = []

    def download(repo_id: str, filename: str, **_: Any) -> str:
        asked.append(f"{repo_id}/{filename}")
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    return asked


def test_timms_own_weights(hub: list[str]) -> None:
    assert_holds(load_twins("timm"), twins().state_dict())
    assert hub == ["timm/twins_svt_small.in1k/model.safetensors"]


def test_a_tag_in_the_name_decides(hub: list[str]) -> None:
    load_twins("timm", model_name="twins_svt_small.in1k")
    assert hub == ["timm/twins_svt_small.in1k/model.safetensors"]


@pytest.mark.parametrize("channels", [1, 4, 8])
@pytest.mark.usefixtures("hub")
def test_timms_own_weights_for_other_channels(channels: int) -> None:
    adapter = load_twins("timm", in_channels=channels)
    reference = timm.create_model(SVT, pretrained=True, in_chans=channels, **TWINS)
    assert_holds(adapter, reference.state_dict())
    assert adapter.trunk.patch_embeds[0].proj.weight.shape[1] == channels


def test_a_name_on_the_hub(hub: list[str]) -> None:
    assert_holds(load_twins("hf-hub:somebody/twins"), twins().state_dict())
    assert hub == ["somebody/twins/model.safetensors"]


@pytest.mark.parametrize("name", ["timm", "hf-hub:somebody/twins"])
def test_a_hub_that_does_not_answer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(**_: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match=r"ConnectionError: no route to host\).*(local file|path of the file)"):
        load_twins(name)


@pytest.mark.usefixtures("hub")
def test_what_timm_would_leave_at_random_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm warns and goes on where it cannot adapt a first convolution."""

    def refuse(*_: Any, **__: Any) -> torch.Tensor:
        raise NotImplementedError

    monkeypatch.setattr(timm.models._builder, "adapt_input_conv", refuse)
    with pytest.raises(ValueError, match=r"missing +patch_embeds\.0\.proj\.weight"):
        load_twins("timm", in_channels=5)


def test_a_model_for_which_timm_has_no_weights() -> None:
    with pytest.raises(
        ValueError, match=r"could not load the weights of swinv2_cr_tiny_224 \(RuntimeError: No pretrained"
    ):
        adapters.create_adapter("swinv2_cr_tiny_224", weights="timm", trunk={"depths": (1, 1, 1, 1)})


# The two idioms by which a source is given.


def test_init_cfg_means_the_same() -> None:
    source = resolve_source(None, {"type": "Pretrained", "checkpoint": "a.pth", "prefix": "backbone."})
    assert source is not None
    assert (source.name, source.prefix) == ("a.pth", "backbone.")
    assert resolve_source("a.pth", None) == resolve_source(None, {"type": "Pretrained", "checkpoint": "a.pth"})
    assert resolve_source(Path("a.pth"), None) == resolve_source("a.pth", None)
    assert resolve_source(None, None) is None


@pytest.mark.parametrize(
    ("name", "init_cfg", "message"),
    [
        ("a.pth", {"type": "Pretrained", "checkpoint": "b.pth"}, "both name a checkpoint"),
        (None, {"type": "Kaiming"}, r"only dict\(type='Pretrained'"),
        (None, {"type": "Pretrained", "checkpoint": "a.pth", "strict": True}, r"only dict\(type='Pretrained'"),
        (None, [{"type": "Pretrained", "checkpoint": "a.pth"}], r"only dict\(type='Pretrained'"),
        (None, {"type": "Pretrained", "checkpoint": "a.pth", "prefix": 3}, "prefix=3 must be a string"),
        (
            None,
            {"type": "Pretrained", "checkpoint": "a.pth", "img_size": 224},
            r"img_size=224 must be two whole numbers",
        ),
        (None, {"type": "Pretrained"}, "init_cfg's checkpoint=None must name a checkpoint"),
        ("", None, "weights='' must name a checkpoint: 'timm', a path"),
        (True, None, "weights=True must name a checkpoint"),
    ],
)
def test_idioms_that_do_not_work(name: Any, init_cfg: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapters.TwinsAdapter(SVT, weights=name, init_cfg=init_cfg, trunk=TWINS)


# When weights are loaded.


def test_building_never_loads(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pth")
    adapter = adapters.TimmAdapter(SVT, weights=missing, trunk=TWINS)
    adapter(torch.zeros(1, 3, 32, 32))
    for _ in range(2):  # A load that failed is no load: the second call must not pass for one.
        with pytest.raises(ValueError, match="is no file"):
            adapter.init_weights()


def test_init_weights_loads_once(tmp_path: Path) -> None:
    path = tmp_path / "twins.pth"
    adapter = adapters.TimmAdapter(SVT, weights=save(twins().state_dict(), path), trunk=TWINS)
    adapter.init_weights()
    path.unlink()
    with torch.no_grad():
        adapter.trunk.blocks[0][0].norm1.weight.fill_(5.0)
    adapter.init_weights()
    assert (adapter.trunk.blocks[0][0].norm1.weight == 5).all()


def test_a_detectors_init_weights_reaches_the_adapter_and_spares_its_trunk(tmp_path: Path) -> None:
    from mmengine.model import BaseModule

    class Detector(BaseModule):
        def __init__(self, name: str | None) -> None:
            super().__init__()
            self.backbone = adapters.TimmAdapter(SVT, weights=name, trunk=TWINS)

    model = twins()
    detector = Detector(save(model.state_dict(), tmp_path / "twins.pth"))
    detector.init_weights()
    assert_holds(detector.backbone, model.state_dict())
    scratch = Detector(None)
    before = {key: tensor.clone() for key, tensor in scratch.backbone.trunk.state_dict().items()}
    scratch.init_weights()
    assert_holds(scratch.backbone, before)


def test_a_random_start_is_told_once_and_only_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(weights, "log", lambda *message: told.append(message))
    adapter = adapters.create_adapter(SVT, weights=None, trunk=TWINS)
    assert not told
    adapter.init_weights()
    adapter.init_weights()
    ((message, level),) = told
    assert message.startswith(f"{SVT}: the backbone starts from random weights (weights=None)")
    assert level == logging.WARNING


def test_the_log_is_the_runs_where_there_is_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.logging import MMLogger

    monkeypatch.setattr(MMLogger, "_instance_dict", type(MMLogger._instance_dict)())
    weights.log("to Python's", logging.WARNING)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("adapters", "to Python's")]
    logger = MMLogger.get_instance("a run", logger_name="a run")
    lines: list[str] = []
    monkeypatch.setattr(logger, "handle", lambda record: lines.append(record.getMessage()))
    weights.log("to the run's", logging.WARNING)
    assert lines == ["to the run's"]
    assert len(caplog.records) == 1
