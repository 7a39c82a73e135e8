"""The fenced blocks of the README and of the site's pages, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    REPOSITORY / "README.md",
    *sorted(path for path in (REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "configs/README.md",
    REPOSITORY / "CHANGELOG.md",
]
#: Kinds of block that are tested, and ``text``, which shows what something prints or draws.
KINDS = ("python", "config", "bash", "text")

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'python title="(?P<title>[\w.]+\.py)"')


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: its file, relative to the repository.
        line: of the fence.
        kind: one of ``KINDS``.
        code: what it holds.
        title: of a config, the name of its file.
    """

    page: str
    line: int
    kind: str
    code: str
    title: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def has_loop(self) -> bool:
        """Tell whether the shell must run the block as it stands."""
        return re.search(r"^for ", self.code, re.MULTILINE) is not None

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command, without comments and without what it puts into the environment."""
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def read_blocks(path: Path) -> list[Block]:
    """Read all fenced blocks of a page.

    Raises:
        ValueError: a block is of no kind that is tested.
    """
    text = path.read_text()
    page = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name
    blocks = []
    for match in _FENCE.finditer(text):
        info, line = match["info"].strip(), text.count("\n", 0, match.start()) + 1
        title = _TITLE.fullmatch(info)
        kind = "config" if title else info
        if kind not in KINDS:
            raise ValueError(f"{page}:{line} is a block of the kind {info!r}; it must be one of {', '.join(KINDS)}.")
        blocks.append(Block(page, line, kind, match["code"], title["title"] if title else ""))
    if 2 * len(blocks) != len(re.findall("^```", text, re.MULTILINE)):
        raise ValueError(f"{page} has a fence that is not closed, or not at the beginning of a line.")
    return blocks


def links(path: Path) -> Iterator[str]:
    """Yield the files that a page links to or shows, as it names them, without anchors."""
    text = _FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if "://" not in target:
            yield target
