"""Other frameworks are imported by the file that serves them, and by nothing else."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("transformers", "segmentation_models_pytorch", "detectron2"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import adapters
assert not [name for name in sys.modules if name.startswith("adapters.interop")]
import adapters.interop.detectron2, adapters.interop.torchvision
for name in ("smp", "transformers"):
    try:
        __import__(f"adapters.interop.{name}")
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
print("ok")
"""


def test_importing_adapters_imports_no_other_framework() -> None:
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.stdout == "ok\n", result.stderr[-2000:]
