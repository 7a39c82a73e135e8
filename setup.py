"""Distribution metadata; the tested versions stand in requirements/constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "adapters/__init__.py").read_text()).group(1)

MAINTAINED = [
    "onedl-mmengine>=0.10.12",
    "onedl-mmcv>=2.3.6",
    "onedl-mmdetection>=3.5.1",
    "onedl-mmsegmentation>=1.4.2",
]
UPSTREAM = ["mmengine", "mmcv", "mmdet", "mmsegmentation", "torch<2.6"]
DATA = ["scikit-image", "matplotlib", "pycocotools", "tqdm", "rich"]
EXTRACT = ["pyarrow", "tqdm"]
RAY = [*EXTRACT, "ray[data]"]
TEST = ["pytest", "pytest-xdist", "ruff", "mypy", "import-linter"]

setup(
    name="dense-adapters",
    version=VERSION,
    description="timm's classification models as backbones for detection and segmentation in OpenMMLab",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["adapters", "adapters.*"]),
    package_data={"adapters": ["listing.json"]},
    install_requires=["torch>=2.5", "timm>=1.0.31", "safetensors", "filelock", "tqdm", "typing_extensions"],
    extras_require={
        "openmmlab": MAINTAINED,
        "openmmlab-upstream": UPSTREAM,
        "data": DATA,
        "extract": EXTRACT,
        "ray": RAY,
        "test": TEST + DATA + RAY,
    },
)
