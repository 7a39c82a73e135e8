"""The table of recipes in ``configs/README.md``: the published score of each, its cost, and the command that starts it.

Counting all models takes minutes, so the counts are kept in ``configs/counts.json``, each with a digest of the model's
config: a recipe is counted again when its model has changed.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from tqdm import tqdm

from adapters.describe.tables import markdown_table
from adapters.files import read_json, write_json, write_text
from adapters.openmmlab.count_config import count_config
from adapters.openmmlab.run import register_scope

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
COUNTS = CONFIGS / "counts.json"
README = CONFIGS / "README.md"
COLUMNS = ("recipe", "published", "parameters M", "FLOPs G", "command")
KINDS = {"detection": "Detection and instance segmentation", "segmentation": "Semantic segmentation"}

HEAD = """# Recipes

Each recipe is a few lines on top of [`_base_`](_base_): a model, a dataset, a schedule and a runtime. COCO is expected
in `data/coco` and ADE20K in `data/ade/ADEChallengeData2016`, as mmdet and mmseg have them; `*_shapes.py` use the
dataset that `python tools/make_shapes.py` draws.

This table is written by `python tools/list_recipes.py`. *Published* is the figure of the publication that
[`metafile.yaml`](metafile.yaml) names, reached with its authors' own code; a dash says that none is published for this
recipe. No recipe on COCO or ADE20K has been trained here. Parameters are those of the whole detector or segmentor as
built here, FLOPs its multiply-adds, attention counted, at the image size beside them. The commands have as many
processes as give the batch that the learning rate is for; with fewer, add `--auto-scale-lr`.
"""


@dataclass(frozen=True)
class RecipeCount:
    """The cost of a recipe's model.

    Attributes:
        digest: of the model's config and of the image's size.
        parameters: all of them, frozen ones too.
        multiply_adds: of one image.
        size: ``(H, W)`` of the image in pixels.
    """

    digest: str
    parameters: int
    multiply_adds: int
    size: tuple[int, int]


def recipe_paths() -> list[Path]:
    """List every recipe, by kind and name."""
    return [path for kind in KINDS for path in sorted((CONFIGS / kind).glob("*.py"))]


def digest(cfg: Config) -> str:
    """Hash the settings that a count depends on to twelve letters."""
    text = json.dumps([cfg.model.to_dict(), cfg.get("crop_size"), cfg.get("test_pipeline")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def count_recipe(cfg: Config) -> RecipeCount:
    """Count a recipe's model at the size at which it is tested.

    Raises:
        ValueError: the model cannot be built or run.
    """
    register_scope(cfg)
    cost = count_config(cfg)
    return RecipeCount(digest(cfg), cost.parameters, cost.multiply_adds, (cost.size[0], cost.size[1]))


def read_counts() -> dict[str, RecipeCount]:
    """Read the counts that are kept, by the recipe's name."""
    kept = read_json(COUNTS, {})
    return {name: RecipeCount(**{**value, "size": tuple(value["size"])}) for name, value in kept.items()}


def write_counts(counts: Mapping[str, RecipeCount]) -> None:
    """Keep counts, sorted by the recipe's name."""
    write_json(COUNTS, {name: asdict(counts[name]) for name in sorted(counts)})


def update_counts(paths: Iterable[Path]) -> dict[str, RecipeCount]:
    """Return the counts of these recipes; those that are missing or stale are counted, and kept at once."""
    kept = read_counts()
    counts: dict[str, RecipeCount] = {}
    for path in paths:
        cfg = Config.fromfile(path)
        count = kept.get(path.stem)
        if count is None or count.digest != digest(cfg):
            kept[path.stem] = count = count_recipe(cfg)
            write_counts(kept)
        counts[path.stem] = count
    write_counts(counts)
    return counts


def render(counts: dict[str, RecipeCount]) -> str:
    """Write the text of ``configs/README.md``."""
    entries = {entry["Name"]: entry for entry in yaml.safe_load((CONFIGS / "metafile.yaml").read_text())["Models"]}
    parts = [HEAD]
    for kind, title in KINDS.items():
        rows = [
            _cells(path, entries.get(path.stem), counts[path.stem])
            for path in recipe_paths()
            if path.parent.name == kind
        ]
        parts.append(f"## {title}\n\n{markdown_table(COLUMNS, rows)}\n")
    return "\n".join(parts)


def _cells(path: Path, entry: dict[str, Any] | None, count: RecipeCount) -> tuple[str, ...]:
    place = path.relative_to(CONFIGS).as_posix()
    return (
        f"[{path.stem}]({place})",
        published(entry),
        f"{count.parameters / 1e6:.1f}",
        f"{count.multiply_adds / 1e9:.0f} at {count.size[0]} x {count.size[1]}",
        f"`{command(path)}`",
    )


def published(entry: dict[str, Any] | None) -> str:
    """Write the published figures of a recipe, the first metric of each task."""
    results = entry["Results"] if entry else []
    figures = (next(iter(result["Metrics"].items())) for result in results)
    return ", ".join(f"{metric} {value}" for metric, value in figures) or "-"


def command(path: Path) -> str:
    """Write the command that trains a recipe at the batch that its learning rate is for."""
    cfg = Config.fromfile(path)
    processes = cfg.auto_scale_lr.base_batch_size // cfg.train_dataloader.batch_size
    place = path.relative_to(REPOSITORY).as_posix()
    return f"tools/dist_train.sh {place} {processes}" if processes > 1 else f"python tools/train.py {place}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ``configs/README.md``, counting the recipes whose models have changed."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    write_text(README, render(update_counts(tqdm(recipe_paths(), dynamic_ncols=True))))
    return 0
