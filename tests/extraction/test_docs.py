"""The page on linear probes runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_linear_probe_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (REPOSITORY / "docs/linear_probe.md").read_text(), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "bash", "python", "python"]
    monkeypatch.chdir(tmp_path)
    Path("tools").symlink_to(REPOSITORY / "tools")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names: dict[str, Any] = {}
    for kind, code in blocks:
        if kind == "bash":
            subprocess.run(["bash", "-euc", code], check=True, env={**os.environ, "PATH": path})
        else:
            exec(compile(code, "docs/linear_probe.md", "exec"), names)
    assert len(names["recalls"]) == names["classes"] == 7
    assert names["score"] > 2 * names["chance"]
