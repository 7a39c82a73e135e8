"""The hooks of ``mkdocs build``: pages from files outside ``docs/``, links into the repository, complete API pages.

``mkdocs.yml`` names this file as a hook. Its warnings fail a strict build.
"""

import importlib
import inspect
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]

#: Pages of the site that are files of the repository elsewhere.
PAGES = {"recipes.md": "configs/README.md", "changelog.md": "CHANGELOG.md"}

#: Pages whose tables take the place of the table of contents.
WIDE = {"coverage.md", "performance.md", "published_counts.md", "recipes.md"}

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):(`+)~?")
_DOCTEST = re.compile(r"^>>> .*\n(?:(?!\n).+\n?)*", re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)

log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere, and compare the API pages with the package."""
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for problem in api_problems(ROOT / "docs" / "api"):
        log.warning(problem)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at pages of the site, and show those to other files of the repository as paths."""
    if page.file.src_uri in WIDE:
        page.meta.setdefault("hide", ["toc"])
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda match: _rewrite(match, source, page.file.src_uri), markdown)


class Markdown(griffe.Extension):
    """Turn what our docstrings have of reStructuredText into Markdown: roles, literal blocks, doctests."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    """Fence doctests, drop roles (``:class:`Level``` is code) and the ``::`` before a literal block."""
    docstring = _ROLE.sub(r"\1", docstring)
    docstring = re.sub(r"^( *)::$\n?", "", docstring, flags=re.MULTILINE)
    return _DOCTEST.sub(lambda match: f"```python\n{match.group().rstrip()}\n```\n", docstring)


def _rewrite(match: re.Match[str], source: str, page: str) -> str:
    text, target, anchor = match.groups(default="")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    by_source = {elsewhere: name for name, elsewhere in PAGES.items()}
    if path in by_source or path.startswith("docs/"):
        wanted = by_source.get(path, path.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(wanted, posixpath.dirname(page) or '.')}{anchor})"
    if not (ROOT / path).exists():
        log.warning("%s links to %s, which does not exist", source, target)
    return text if text.startswith("`") else f"`{path}`" if text in (path, target) else text


def api_problems(folder: Path) -> list[str]:
    """Find the public names without an API page, and the names on API pages without a docstring.

    Args:
        folder: of the pages, with mkdocstrings' directives ``::: adapters.module.Name``.
    """
    import adapters

    named = [name for page in sorted(folder.glob("*.md")) for name in _DIRECTIVE.findall(page.read_text())]
    objects = {name: _resolve(name) for name in named}
    problems = [f"docs/api names {name}, which does not exist" for name, found in objects.items() if found is None]
    shown = {id(found) for found in objects.values()}
    problems += [
        f"adapters.{name} is public and on no API page"
        for name in adapters.__all__
        if id(getattr(adapters, name)) not in shown
    ]
    for name, found in objects.items():
        problems += [f"{member} is public and has no docstring" for member in _undocumented(name, found)]
    return problems


def _resolve(name: str) -> Any:
    """Import what a dotted name stands for; None if there is no such thing."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute, None)


def _undocumented(name: str, found: Any) -> Iterator[str]:
    """Yield the names of an object and of its public functions, classes and methods that have no docstring."""
    if found is not None and not inspect.getdoc(found):
        yield name
    if not isinstance(found, type | ModuleType):
        return
    for member, value in vars(found).items():
        function = value.fget if isinstance(value, property) else value
        if isinstance(value, classmethod | staticmethod):
            function = value.__func__
        own = getattr(function, "__module__", None) == (
            found.__name__ if isinstance(found, ModuleType) else found.__module__
        )
        if member.startswith("_") or not own or not (inspect.isfunction(function) or isinstance(function, type)):
            continue
        # An override says what the method that it overrides says.
        if not inspect.getdoc(getattr(found, member)):
            yield f"{name}.{member}"
