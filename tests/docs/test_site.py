"""The site: it builds strictly, documents every public name, and needs no network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import REPOSITORY
from lab.site_hooks import api_problems, to_markdown


def test_every_public_name_is_documented() -> None:
    assert api_problems(REPOSITORY / "docs/api") == []


def test_a_name_without_a_page_or_a_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "::: adapters.Level\n\n::: adapters.teapot\n\n::: torch.nn.modules.module.Module\n"
    )
    problems = api_problems(tmp_path)
    assert "adapters.create_adapter is public and on no API page" in problems
    assert "docs/api names adapters.teapot, which does not exist" in problems
    assert not any("Level " in problem for problem in problems)
    assert "torch.nn.modules.module.Module.get_extra_state is public and has no docstring" not in problems


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("see :class:`Level`, :func:`~adapters.levels.spread_blocks`", "see `Level`, `adapters.levels.spread_blocks`"),
        (">>> 1 + 1\n2\n\nText.", "```python\n>>> 1 + 1\n2\n```\n\nText."),
        ("Text.\n\n::\n\n    code", "Text.\n\n\n    code"),
    ],
)
def test_docstrings_become_markdown(before: str, after: str) -> None:
    assert to_markdown(before) == after


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # some modules that the site shows import transformers
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "recipes.html", "changelog.html", "own_data.html"} <= {page.name for page in pages}
    fetched = r"<(?:script|img|iframe)[^>]*src=.?https?:|<link[^>]*rel=.?(?:stylesheet|preload|icon)[^>]*href=.?https?:"
    for page in pages:
        assert re.findall(fetched, page.read_text()) == [], page
    assert (site / "api/backbones.html").read_text().count('id="adapters.') > 20
