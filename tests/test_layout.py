"""The rules of the house that a program can check: where modules lie, how docstrings begin, where shapes stand."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "adapters"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAB = sorted((REPOSITORY / "tools").rglob("*.py"))
#: Folders of tests that mirror something else than a package of the library.
OTHER_TESTS = {"lab", "configs", "docs", "foreign"}
#: Files of tests about several modules together.
JOINT_TESTS = {
    "families/test_compile.py",
    "families/test_numerics.py",
    "necks/test_pyramids.py",
    "openmmlab/test_distributed.py",
    "test_layout.py",
    "test_package.py",
    "test_real_weights.py",
    "weights/test_hostile_files.py",
}
#: First words that leave a docstring without a subject.
HIDDEN_SUBJECTS = {"What", "Whether", "Of", "How", "As", "From", "Which", "So"}
SHAPE = re.compile(r"``\(.*?\)``|\bof any shape\b|\bof the same shape\b", re.DOTALL)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def documented(path: Path) -> Iterator[tuple[Documented, str]]:
    """Every module, class and function of a file that has a docstring, with it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, text


def is_public(node: Documented) -> bool:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


def takes_or_gives_tensors(node: ast.FunctionDef) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    hints = [argument.annotation for argument in arguments] + [node.returns]
    return any(re.search(r"\bTensor\b", ast.unparse(hint)) for hint in hints if hint is not None)


def test_few_modules_are_loose() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]) <= 10


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_documented_and_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module says in its first line what it holds"
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("path", MODULES + LAB, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_docstrings_begin_with_their_subject(path: Path) -> None:
    hidden = [text.splitlines()[0] for _, text in documented(path) if re.split(r"\W", text)[0] in HIDDEN_SUBJECTS]
    assert hidden == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_of_tensors_say_their_shapes(path: Path) -> None:
    nodes = [(node, text) for node, text in documented(path) if is_public(node)]
    silent = [
        node.name
        for node, text in nodes
        if isinstance(node, ast.FunctionDef) and takes_or_gives_tensors(node) and not SHAPE.search(text)
    ]
    assert silent == []


def test_tests_mirror_the_package() -> None:
    """A file of tests lies where its module lies, and has its name."""
    tests = [path.relative_to(REPOSITORY / "tests") for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))]
    mirrors = [path for path in tests if path.parts[0] not in OTHER_TESTS and path.as_posix() not in JOINT_TESTS]
    assert len(mirrors) > 50
    assert [path for path in mirrors if not (PACKAGE / path.parent / path.name.removeprefix("test_")).is_file()] == []
