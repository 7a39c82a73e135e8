"""Put timm models into one config of every algorithm that ships with mmdet and mmseg, and see whether each runs.

For each algorithm (a folder of configs inside the installed packages) the first config is taken that runs with its
own backbone: a loss, its backward and a predict on a tiny synthetic batch, on the CPU. Then `fit_backbone` swaps each
timm model in and the same is asked again. Each run has a process of its own and a time limit. Results are kept in a
JSON file beside the page, and a second run goes on from there.

    python tools/sweep.py                                            # everything that is missing, then the page
    python tools/sweep.py --models convit_tiny --algorithms mmdet/atss --page work_dirs/algorithms.md
"""

import argparse
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmseg.utils import register_all_modules as register_mmseg
from torch import nn
from tqdm import tqdm

from adapters import BackboneAdapter, LevelBridge
from adapters.describe.tables import markdown_table
from adapters.files import write_text
from adapters.openmmlab.config_files import shipped_configs
from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.fit import fit_backbone
from adapters.openmmlab.operators.finder import are_served
from lab.child import ENDED, collect
from lab.results import Results
from lab.synthetic import make_batch, shrink_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "algorithms.md"
HEAD = """# Algorithms

One config of each algorithm that ships with mmdet and mmseg, the first that runs with its own backbone, and the same
config with a model of timm in its place, as `--backbone` does it: a loss, its backward pass and a prediction on drawn
images, on a CPU, from random weights. [`tools/sweep.py`](../tools/sweep.py) wrote this page ({held}).

{count} of {total} algorithms{rest}. {totals}.

"""
OWN = "own backbone"
OK = "ok"
SIZES = {"mmdet": (128, 384), "mmseg": (64, 512, 640)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try each model in each algorithm, keep the outcomes, and show the table."""
    args = parse_args(arguments)
    register_mmdet(init_default_scope=False)
    register_mmseg(init_default_scope=False)
    torch.set_num_threads(args.threads)
    configs = configs_by_algorithm()
    if unknown := sorted(set(args.algorithms) - set(configs)):
        raise ValueError(f"there is no algorithm {unknown[0]!r}; there are {', '.join(configs)}.")
    kept = Results(args.page.with_suffix(".json"), versions())
    started = time.monotonic()
    for name in tqdm(args.algorithms or list(configs), dynamic_ncols=True, disable=None):
        if time.monotonic() - started > args.stop_after:
            break
        row = kept.by_name.get(name, {})
        if row.get(OWN) != OK:
            row.update(first_config_that_runs(configs[name], name, args))
        for model in args.models if row[OWN] == OK else ():
            if row.get(model) != OK or args.again:
                row[model] = in_child(args.time_limit, str(configs[name][row["config"]]), name, model, row["size"])
        print(name, {column: row.get(column) for column in (OWN, *args.models)}, flush=True)
        kept.add(name, row)
    write_text(args.page, render(kept.by_name, kept.conditions, args.models, len(configs)))
    print(f"written: {args.page}")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["twins_svt_small"], help="timm model names")
    parser.add_argument("--algorithms", nargs="+", default=[], help="such as mmdet/atss; default: all")
    parser.add_argument("--time-limit", type=float, default=180, help="seconds for one run")
    parser.add_argument(
        "--candidates", type=int, default=8, help="configs of an algorithm to try with its own backbone"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run again what has passed before")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; then no algorithm is begun")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    return parser.parse_args(arguments)


def versions() -> dict[str, str]:
    """Return under what the algorithms run."""
    held = {name: version(f"onedl-{name}") for name in ("mmdetection", "mmsegmentation", "mmcv")}
    operators = "adapters.openmmlab.operators" if are_served() else "mmcv's, compiled"
    return {"torch": version("torch").partition("+")[0], **held, "operators": operators}


def configs_by_algorithm() -> dict[str, dict[str, Path]]:
    """Map each algorithm of mmdet and mmseg, such as ``mmdet/atss``, to its configs by name, sorted."""
    found: dict[str, dict[str, Path]] = {}
    for package in SIZES:
        for name, path in shipped_configs(package).items():
            found.setdefault(f"{package}/{name.partition('/')[0]}", {})[name] = path
    return found


def first_config_that_runs(configs: Mapping[str, Path], algorithm: str, args: argparse.Namespace) -> dict[str, Any]:
    """Find the first config that runs with its own backbone, and the image size for it; or why the first fails."""
    reasons = []
    for name in list(configs)[: args.candidates]:
        for size in SIZES[algorithm.split("/")[0]]:
            reason = in_child(args.time_limit, str(configs[name]), algorithm, None, size)
            if reason == OK:
                return {"config": name, "size": size, OWN: OK}
            reasons.append(reason)
    return {"config": next(iter(configs)), OWN: reasons[0]}


def run_config(path: str, name: str, model_name: str | None, size: int) -> str:
    """Build a config's model, with ``model_name`` as its backbone if given, and run one loss, backward and predict."""
    scope = name.split("/")[0]
    torch.manual_seed(0)
    init_default_scope(scope)
    cfg = Config.fromfile(path)
    if "model" not in cfg:
        return "no model in this config"
    if model_name is not None:
        fit_backbone(cfg, model_name)
    drop_pretrained(cfg.model)
    shrink_model(cfg.model, size)
    for counter in ("iter", "epoch"):  # the Runner keeps them; some losses warm up by them
        MessageHub.get_current_instance().update_info(counter, 0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    model.train()
    batch = model.data_preprocessor(make_batch(cfg.model, scope, size, training=True), True)
    loss, _ = model.parse_losses(model(**batch, mode="loss"))
    loss.backward()
    if not torch.isfinite(loss):
        return f"loss is {loss.item()}"
    if untouched := without_gradient(model):
        return f"no gradient: {len(untouched)} parameters of ours, such as {untouched[0]}"
    model.eval()
    with torch.no_grad():
        batch = model.data_preprocessor(make_batch(cfg.model, scope, size, training=False), False)
        model(**batch, mode="predict")
    return OK


def without_gradient(model: nn.Module) -> list[str]:
    """List the parameters of adapters and bridges that a backward pass has not reached."""
    return [
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, BackboneAdapter | LevelBridge)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]


def in_child(time_limit: float, *arguments: object) -> str:
    """Call :func:`run_config` in a process of its own; return its answer, or why there is none."""
    cells = collect(_outcome, time_limit, *arguments)
    return without_folders(cells.get("outcome") or cells[ENDED])


def without_folders(reason: str) -> str:
    """Shorten the absolute paths in a message, which are those of one machine, to their last names."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.+-]+/)+", "", reason)


def _outcome(path: str, name: str, model_name: str | None, size: int) -> Iterator[tuple[str, str]]:
    yield "outcome", run_config(path, name, model_name, size)


def render(
    results: Mapping[str, Mapping[str, Any]], conditions: Mapping[str, str], models: Sequence[str], total: int
) -> str:
    """Write the page, in Markdown.

    Args:
        results: by algorithm.
        conditions: under which they were taken.
        models: of timm, the columns.
        total: algorithms that there are.
    """
    columns = (OWN, *models)
    rows = [
        [f"`{name}`", f"`{row['config']}`", *("yes" if row.get(column) == OK else "no" for column in columns)]
        for name, row in sorted(results.items())
    ]
    counts = {column: sum(row.get(column) == OK for row in results.values()) for column in columns}
    totals = "; ".join(f"{column}: {count} of {len(results)}" for column, count in counts.items())
    reasons = [
        f"- `{name}`, {column}: {' '.join(row[column].split())[:300]}"
        for name, row in sorted(results.items())
        for column in columns
        if row.get(column, OK) != OK
    ]
    held = ", ".join(f"{name} {value}" for name, value in conditions.items())
    headings = ["algorithm", "config", *(column if column == OWN else f"`{column}`" for column in columns)]
    table = markdown_table(headings, rows)
    more = ["", "## Reasons", "", *reasons] if reasons else []
    rest = "; the others are not measured yet" if len(results) < total else ""
    return HEAD.format(totals=totals, held=held, count=len(results), total=total, rest=rest) + "\n".join(
        [table, *more, ""]
    )
