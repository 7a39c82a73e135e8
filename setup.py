"""Packages of the distribution; everything else stands in pyproject.toml, the tested versions in requirements."""

from setuptools import find_packages, setup

setup(
    # The recipes lie beside the package in a clone, and inside it once installed.
    packages=[*find_packages(include=["adapters", "adapters.*"]), "adapters.configs"],
    package_dir={"adapters.configs": "configs"},
    package_data={
        "adapters": ["listing.json", "py.typed"],
        "adapters.configs": ["README.md", "metafile.yaml", "**/*.py"],
    },
)
