"""``dense-adapters``: help with an example of each command, the version, and scripts that are the same code."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import adapters
from adapters.commands import main as command

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SCRIPTS = {
    "train": "train",
    "test": "test",
    "describe": "describe",
    "layer-decay": "layer_decay",
    "extract": "extract_features",
    "visualize": "visualize_features",
    "export": "export",
    "convert": "convert_checkpoint",
    "list": "list_models",
}


def printed(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert printed(["--version"], capsys) == f"dense-adapters {adapters.__version__}\n"


def test_help_has_an_example_of_each_command(capsys: pytest.CaptureFixture) -> None:
    text = printed(["--help"], capsys)
    assert list(SCRIPTS) == list(command.COMMANDS)
    for name in SCRIPTS:
        assert re.search(rf"^  dense-adapters {name} \S", text, re.MULTILINE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_has_examples_that_its_parser_takes(name: str, capsys: pytest.CaptureFixture) -> None:
    text = printed([name, "--help"], capsys)
    assert text.startswith(f"usage: dense-adapters {name} ")
    examples = re.findall(rf"^  dense-adapters {name} (.+)$", text, re.MULTILINE)
    assert len(examples) >= 2
    module = importlib.import_module(f"adapters.commands.{name.replace('-', '_')}")
    for example in [*examples, command.COMMANDS[name][1]]:
        module.make_parser().parse_args(shlex.split(example))


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items())
def test_a_script_is_a_starter_of_its_command(name: str, script: str) -> None:
    assert f'run("{name}")' in (TOOLS / f"{script}.py").read_text()


def test_arguments_and_exit_code_are_passed_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["list_models.py", "twins_svt_s*", "--strides", "3"])
    with pytest.raises(SystemExit) as ended:
        command.run("list")
    assert ended.value.code == 1
    monkeypatch.setattr("sys.argv", ["dense-adapters", "list", "no_such_*"])
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: timm")
