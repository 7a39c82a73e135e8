"""What the documentation's commands are checked with: the parser of each, and a run where it is quick.

A command that no rule knows is an error. Words in capitals (``CONFIG``, ``DIR``) stand for what a user has.
"""

import argparse
import importlib
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from doc_blocks import REPOSITORY

CONSOLE = "dense-adapters"
#: What makes a run of one of the pages' configs take seconds.
QUICK = [
    "model.backbone.weights=None",
    "model.backbone.trunk.depths=[2,1,1,1]",
    "default_hooks.checkpoint.save_optimizer=False",
    *(
        f"{split}_dataloader.{setting}"
        for split in ("train", "val", "test")
        for setting in ("num_workers=0", "persistent_workers=False", "batch_size=1", "dataset.indices=2")
    ),
]
#: Commands that run as they stand, but for what they would download.
READERS = ("describe", "list", "layer-decay")


class ParsedError(Exception):
    """Ends a script once its command line has been parsed."""


def is_placeholder(word: str) -> bool:
    return re.fullmatch(r"[A-Z]{3,}", word) is not None


def check(words: Sequence[str]) -> None:
    """Check a command, and run it where that takes seconds.

    Raises:
        AssertionError: the command is unknown, its arguments are not, or it fails.
    """
    name, *rest = words
    if name == CONSOLE:
        check_console(rest)
    elif name == "python":
        check_script(rest)
    elif name == "make":
        (target,) = rest
        assert re.search(rf"^{target}:.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), words
    elif name == "pip":
        check_pip(rest)
    elif name == "ray":
        check_ray(rest)
    elif name == "tools/dist_train.sh":
        config, processes, *more = rest
        assert processes.isdigit(), words
        parser_of("train").parse_args([config, *more])
    elif name == "sbatch":
        script = next(index for index, word in enumerate(rest) if word == "tools/slurm_train.sh")
        assert (REPOSITORY / rest[script]).is_file()
        parser_of("train").parse_args(rest[script + 1 :])
    else:
        raise AssertionError(f"no rule for the command {' '.join(words)!r}: add one to {__file__}")


def parser_of(name: str) -> argparse.ArgumentParser:
    """Make the parser of one of the package's commands."""
    parser = importlib.import_module(f"adapters.commands.{name.replace('-', '_')}").make_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def run_console(arguments: Sequence[str]) -> int:
    """Run ``dense-adapters`` in this process; return its exit code."""
    from adapters.commands.main import run

    with mock.patch.object(sys, "argv", [CONSOLE, *arguments]):
        return exit_code(run)


def check_console(arguments: Sequence[str]) -> None:
    name, *rest = arguments
    if name.startswith("-"):
        assert run_console(arguments) == 0
        return
    args = parser_of(name).parse_args(rest)
    if any(is_placeholder(word) for word in rest):
        return
    if name in READERS or getattr(args, "checkpoint", None) in ("random", ["random"]):
        assert run_console(arguments) == 0, arguments
    elif name in ("train", "test"):
        check_run(name, rest)
    elif name == "convert" and Path(rest[0]).exists():
        assert run_console(arguments) == 0, arguments


def check_run(name: str, arguments: list[str]) -> None:
    """Train or test one of the page's own configs; one on COCO or ADE20K goes as far as the missing data."""
    if "::" in arguments[0]:
        with redirect_stderr(StringIO()) as said:
            code = run_console([name, *arguments])
        assert code == 1, arguments
        assert re.search(r"data/\S+ does not exist", said.getvalue()), said.getvalue()
        return
    words = shorten(arguments)
    if name == "test" and not Path(words[1]).exists():  # the run that made it was shortened
        words[1] = str(max(Path(words[1]).parent.glob("*.pth"), key=lambda path: path.stat().st_mtime))
    assert run_console([name, *words]) == 0, arguments


def shorten(arguments: Sequence[str]) -> list[str]:
    """Add settings that make a run take seconds: a shallow trunk, two steps on two small images, no weights."""
    from mmengine.config import Config

    cfg = Config.fromfile(arguments[0])
    by_epoch = "max_epochs" in cfg.train_cfg
    settings = [
        *QUICK,
        *(["train_cfg.max_epochs=1"] if by_epoch else ["train_cfg.max_iters=2", "train_cfg.val_interval=2"]),
    ]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for place, step in enumerate(cfg[loader].dataset.pipeline):
            if step["type"] == "Resize":
                settings.append(f"{loader}.dataset.pipeline.{place}.scale=(160,128)")
    options = [] if "--cfg-options" in arguments else ["--cfg-options"]
    return [*arguments, *options, *settings]  # the options of the pages' own come last


def check_script(words: Sequence[str]) -> None:
    """Parse a script's command line with its own parser; draw the dataset for real."""
    script = REPOSITORY / words[0]
    assert script.is_file(), words
    if script.name == "make_shapes.py":
        assert run_script(script, words[1:]) == 0
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        parse(self, args, namespace)
        raise ParsedError

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_end):
        try:
            run_script(script, words[1:])
        except ParsedError:
            return
    raise AssertionError(f"{words[0]} does not parse {words[1:]}")


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script of ``tools/`` in this process; return its exit code."""
    with mock.patch.object(sys, "argv", [str(script), *arguments]):
        return exit_code(lambda: runpy.run_path(str(script), run_name="__main__") and 0)


def exit_code(call: Callable[[], Any]) -> int:
    try:
        return call() or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def check_pip(words: Sequence[str]) -> None:
    command, *arguments = words
    assert command == "install"
    text = (REPOSITORY / "setup.py").read_text() + (REPOSITORY / "pyproject.toml").read_text()
    for word in arguments:
        if word.startswith("-"):
            assert word == "-e"
            continue
        match = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
        assert match, word
        for extra in (match[1] or "").split(","):
            assert not extra or re.search(rf'^\s*"?{extra}"?\s*[:=]', text, re.MULTILINE), extra


def check_ray(words: Sequence[str]) -> None:
    from ray.scripts.scripts import cli

    command = cli.commands[words[0]]
    command.make_parser(command.context_class(command)).parse_args(list(words[1:]))
