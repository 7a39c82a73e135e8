"""Run a part of the tests on the versions that users have, each in an environment of its own.

    python tools/run_matrix.py --lines torch-2.1 torch-2.5

An environment is made in work_dirs/matrix once; a line takes minutes of installing, and minutes of tests. The table in
docs/versions.md holds what was run, with the versions that pip found, and nothing else.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.describe.tables import markdown_table
from adapters.files import read_json, write_json

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDS = REPOSITORY / "docs" / "versions.json"
PAGE = REPOSITORY / "docs" / "versions.md"


@dataclass(frozen=True)
class Line:
    """Versions that go together.

    Attributes:
        python: the interpreter's name.
        extra: of this package, which brings OpenMMLab.
        pins: what pip is told beside it.
    """

    python: str
    extra: str
    pins: tuple[str, ...] = ()


#: mmdet imports transformers where it is installed, as it is with peft; transformers 5 does without older torch.
OLDER = ("transformers<4.50", "peft<0.15")
LINES = {
    # torch 2.1 was built for numpy 1.
    "torch-2.1": Line("python3.10", "openmmlab-upstream", ("torch==2.1.2", "torchvision==0.16.2", "numpy<2", *OLDER)),
    "torch-2.5": Line("python3.11", "openmmlab-upstream", ("torch==2.5.1", "torchvision==0.20.1", *OLDER)),
    "torch-2.11": Line("python3.11", "openmmlab", ("torch==2.11.0", "torchvision==0.26.0")),
    "newest": Line("python3.11", "openmmlab"),
}

#: The tests of a line: the contract, the operators, a run that is trained and resumed, and --backbone.
TESTS = (
    "tests/test_base.py",
    "tests/test_factory.py",
    "tests/kernels/test_versions.py",
    "tests/openmmlab/operators",
    "tests/openmmlab/fit/test_fit.py",
    "tests/openmmlab/test_checked_runner.py",
    "tests/openmmlab/test_run.py",
    "tests/openmmlab/test_run_state.py",
)
#: Adapters of the zoo that stand for the others in the contract, so that a line takes minutes.
ADAPTERS = ("twins_svt", "swinv2_cr", "vit", "dinov3", "convit", "resnet", "davit")
CHOICE = " or ".join(("not test_base", *(f"[{name}]" for name in ADAPTERS)))
#: Beside the package: what the tests import.
TOOLS = ("peft", "pytest", "pytest-xdist", "scikit-image", "matplotlib")

#: Distributions whose versions the table shows, in the order of its columns; OpenMMLab's under either name.
SHOWN = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "numpy": ("numpy",),
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv-lite"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "transformers": ("transformers",),
}

TEXT = """# Versions

What was run with [`tools/run_matrix.py`](../tools/run_matrix.py), which wrote this page, each line on a CPU in an
environment of its own, made by pip from the extra `{extras}`, without a compiler. Nothing is claimed of others.
The oldest timm is 1.0.31, which pip brings along: of 1.0.30, BEiT, ConViT, SwinV2-CR and RoPE ViTs lack what is called.

The tests are {tests}; those of the contract over {adapters}.

{table}

{failures}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the lines, and write the page; return 1 where a test failed."""
    args = parse_args(arguments)
    records = read_json(args.records) if args.records.exists() else {}
    for name in args.lines:
        records[name] = run_line(LINES[name], args.folder / name, args.tests)
        write_json(args.records, records)
        args.page.write_text(render(records))
    print(json.dumps({name: records[name] for name in args.lines}, indent=1))
    return int(any(records[name]["failed"] for name in args.lines))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lines", nargs="+", choices=LINES, default=list(LINES), help="default: all")
    add("--tests", nargs="+", default=list(TESTS), help="default: those of the table")
    add("--folder", type=Path, default=REPOSITORY / "work_dirs" / "matrix", help="of the environments")
    add("--records", type=Path, default=RECORDS)
    add("--page", type=Path, default=PAGE)
    return parser.parse_args(arguments)


def run_line(line: Line, folder: Path, tests: Sequence[str]) -> dict[str, object]:
    """Make an environment where there is none, and run the tests in it; return versions and counts.

    Raises:
        ValueError: the interpreter is missing, or the tests did not run.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        if shutil.which(line.python) is None:
            raise ValueError(f"{line.python} is not installed, which this line needs; leave it out with --lines.")
        subprocess.run([line.python, "-m", "venv", str(folder)], check=True)
    wanted = [f"{REPOSITORY}[{line.extra}]", *line.pins, *TOOLS]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", "-e", *wanted], check=True)
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, stdout=subprocess.PIPE)
    versions = {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(listed.stdout)}
    version = subprocess.run([str(python), "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    run = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-m", "not slow", "-k", CHOICE, "-p", "no:cacheprovider", *tests],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    (folder / "tests.log").write_text(run.stdout)
    counts = count(run.stdout)
    if not counts["passed"]:
        raise ValueError(f"no test ran with {line.extra} in {folder}: see {folder / 'tests.log'}.")
    shown = {
        column: next((versions[name] for name in names if name in versions), "") for column, names in SHOWN.items()
    }
    return {"python": version.split()[1], "extra": line.extra, **shown, **counts, "failures": failures(run.stdout)}


def failures(printed: str) -> list[str]:
    """Read the names of the tests that failed."""
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", printed, re.MULTILINE)


def count(printed: str) -> dict[str, int]:
    """Read how many tests passed and failed from what pytest printed."""
    last = printed.strip().rpartition("\n")[2]
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}
    return {"passed": found.get("passed", 0), "failed": found.get("failed", 0) + found.get("error", 0)}


def render(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page, in Markdown."""
    columns = ["python", *SHOWN, "extra", "passed", "failed"]
    rows = [[str(records[name][column]) for column in columns] for name in LINES if name in records]
    extras = "` or `".join(dict.fromkeys(line.extra for line in LINES.values()))
    tests = ", ".join(f"`{path}`" for path in TESTS)
    failed = [f"- torch {record['torch']}: `{name}`" for record in records.values() for name in record["failures"]]
    return TEXT.format(
        tests=tests,
        adapters=", ".join(ADAPTERS),
        extras=extras,
        table=markdown_table(columns, rows),
        failures="\n".join(["These failed:", "", *failed] if failed else ["No test failed."]),
    )
