"""Every command, snippet and config of the README and of the site does what its page says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import doc_commands
import pytest
import torch
from doc_blocks import PAGES, REPOSITORY, Block, links, read_blocks
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, RUNNERS, STRATEGIES, init_default_scope
from mmseg.utils import register_all_modules as register_mmseg

import adapters
from adapters.batches import batch_sizes
from adapters.openmmlab.fit import check_fit
from adapters.options import AdapterOptions

#: Into which the few lines of a page go: they are for any config with an FPN.
ANY_CONFIG = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
#: Pages that train, or extract in processes of their own.
SLOW = ("own_data", "linear_probe")
TESTED = [
    pytest.param(path, id=path.relative_to(REPOSITORY).as_posix(), marks=[pytest.mark.slow] * (path.stem in SLOW))
    for path in PAGES
    if read_blocks(path)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like a clone, where a page's commands and snippets run one after the other."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    init_default_scope("mmengine")


@pytest.mark.parametrize("path", TESTED)
def test_page(path: Path, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": path.stem}
    for block in read_blocks(path):
        try:
            run_block(block, folder, names)
        except BaseException as error:
            error.add_note(f"in the block at {block}")
            raise
    if path.stem == "linear_probe":
        assert len(names["recalls"]) == names["classes"] == 7
        assert names["score"] > 2 * names["chance"]


def run_block(block: Block, folder: Path, names: dict[str, Any]) -> None:
    if block.kind == "python":
        exec(compile(block.code, str(block), "exec"), names)
    elif block.kind == "config":
        file = folder / block.title
        file.write_text(block.code)
        check_config(Config.fromfile(file))
    elif block.kind == "bash" and block.has_loop:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ['PYTHONPATH']}"}
        subprocess.run(["bash", "-euc", block.code], check=True, env=environment)
    elif block.kind == "bash":
        for words in block.commands():
            doc_commands.check(words)


def check_config(cfg: Config) -> None:
    """Build what a config of a page describes; a few lines of one are put into a config of mmdet first."""
    if not {"model", "optim_wrapper", "strategy"} & set(cfg):
        raise AssertionError("no rule for a config without a model, an optim_wrapper or a strategy")
    if "strategy" in cfg:
        assert RUNNERS.get(cfg.runner_type) is not None
        assert STRATEGIES.get(cfg.strategy.type) is not None
        return
    if "type" not in cfg.get("model", {}):
        cfg = put_into(ANY_CONFIG, cfg)
    (register_mmseg if cfg.get("default_scope") == "mmseg" else register_mmdet)(init_default_scope=False)
    init_default_scope(cfg.default_scope)
    check_fit(cfg)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad(), batch_sizes(others_are_whole=True):
        maps = model.extract_feat(torch.randn(1, cfg.model.backbone.get("in_channels", 3), 64, 96))
    assert [tuple(m.shape[-2:]) for m in maps[:3]] in ([(16, 24), (8, 12), (4, 6)], [(8, 12), (4, 6), (2, 3)])
    build_optim_wrapper(model, cfg.optim_wrapper)


def put_into(base: str, lines: Config) -> Config:
    file = Path("into_any_config.py")
    file.write_text(f"_base_ = {base!r}\n")
    cfg = Config.fromfile(file)
    cfg.model.backbone = ConfigDict(type="TimmAdapter", model_name="resnet18")
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    for key, value in lines.get("model", {}).items():
        cfg.model[key] = value if "type" in value else ConfigDict({**cfg.model[key], **value})
    if "optim_wrapper" in lines:
        cfg.optim_wrapper = lines.optim_wrapper
    return cfg


def test_another_kind_of_block_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```yaml\nkey: value\n```\n")
    with pytest.raises(ValueError, match="'yaml'; it must be one of python, config, bash, text"):
        read_blocks(page)


@pytest.mark.parametrize(
    "command", ["rm -rf data", "make tea", "pip install .[everything]", "dense-adapters train", "python tools/tea.py"]
)
def test_another_command_is_refused(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        doc_commands.check(command.split())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    assert [target for target in links(path) if not (path.parent / target).exists()] == []


def test_the_readme_is_short_and_names_every_page() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    chapters = set((REPOSITORY / "docs").glob("*.md"))
    named = {(REPOSITORY / target).resolve() for target in links(REPOSITORY / "README.md")}
    assert {path.name for path in chapters - named} <= {"published_counts.md"}  # of which performance.md is the way


def test_every_option_of_an_adapter_is_explained() -> None:
    page = (REPOSITORY / "docs/configs.md").read_text()
    options = set(AdapterOptions.__annotations__) - {"init_cfg"}
    for family in (adapters.TwinsAdapter, adapters.VisionTransformerAdapter):
        options |= set(family.__init__.__annotations__) - {"options", "return"}
    assert {option for option in options if f"| `{option}` |" not in page} == set()


def test_the_files_that_the_architecture_names_exist() -> None:
    named = {
        name
        for block in read_blocks(REPOSITORY / "docs/architecture.md")
        for name in re.findall(r"^ +([\w/]+\.py) ", block.code, re.MULTILINE)
        if block.kind == "text" and "NAME" not in name
    }
    assert len(named) > 20
    assert [name for name in sorted(named) if not (REPOSITORY / "adapters" / name).is_file()] == []
