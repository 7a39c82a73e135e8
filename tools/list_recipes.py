#!/usr/bin/env python
"""Write the table of recipes into `configs/README.md`, counting what has changed: `python tools/list_recipes.py`."""

import argparse

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    require_mmengine("tools/list_recipes.py")
    from lab.recipes import README, recipe_paths, render, update_counts
    from tqdm import tqdm

    from adapters.files import write_text

    write_text(README, render(update_counts(tqdm(recipe_paths(), dynamic_ncols=True))))


if __name__ == "__main__":
    with one_line_errors():
        main()
