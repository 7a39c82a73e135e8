"""Put timm models into one config of every algorithm that ships with mmdet and mmseg, and see whether each runs.

For each algorithm (a folder of configs inside the installed packages) the first config is taken that runs with its
own backbone: a loss, its backward and a predict on a tiny synthetic batch, on the CPU. Then `fit_backbone` swaps each
timm model in and the same is asked again. Each run has a process of its own and a time limit.

    python tools/sweep.py --models twins_svt_small convit_tiny --out work_dirs/sweep
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmseg.utils import register_all_modules as register_mmseg
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm import tqdm

from adapters import BackboneAdapter, LevelBridge
from adapters.openmmlab.config_files import shipped_configs
from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.fit import fit_backbone
from lab.child import ENDED, collect
from lab.results import Results
from lab.synthetic import make_batch, shrink_model

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
    names = [name for name in configs if not args.algorithms or name in args.algorithms]
    kept = Results(args.out / "results.json", {})
    bar = tqdm(names, dynamic_ncols=True)
    for name in bar:
        bar.set_description(name)
        row = kept.by_name.get(name, {})
        if row.get(OWN) != OK:
            row.update(first_config_that_runs(configs[name], name, args))
        if row[OWN] == OK:
            for model in args.models:
                if row.get(model) != OK or args.again:
                    row[model] = in_child(args.time_limit, row["config"], name, model, int(row["size"]))
        kept.add(name, row)
    print_table({name: kept.by_name[name] for name in names}, args.models)
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["twins_svt_small"], help="timm model names")
    parser.add_argument("--algorithms", nargs="+", help="such as mmdet/atss; default: all")
    parser.add_argument("--time-limit", type=float, default=180, help="seconds for one run")
    parser.add_argument(
        "--candidates", type=int, default=8, help="configs of an algorithm to try with its own backbone"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run again what has passed before")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/sweep"), help="folder of results.json")
    return parser.parse_args(arguments)


def configs_by_algorithm() -> dict[str, list[Path]]:
    """Map each algorithm of mmdet and mmseg, such as ``mmdet/atss``, to its configs, sorted by name."""
    found: dict[str, list[Path]] = {}
    for package in SIZES:
        for name, path in shipped_configs(package).items():
            found.setdefault(f"{package}/{name.partition('/')[0]}", []).append(path)
    return found


def first_config_that_runs(paths: list[Path], name: str, args: argparse.Namespace) -> dict[str, str]:
    """Find the first config that runs with its own backbone, and the image size for it; or why the first fails."""
    reasons = []
    for path in paths[: args.candidates]:
        for size in SIZES[name.split("/")[0]]:
            reason = in_child(args.time_limit, str(path), name, None, size)
            if reason == OK:
                return {"config": str(path), "size": str(size), OWN: OK}
            reasons.append(reason)
    return {"config": str(paths[0]), OWN: reasons[0]}


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
    return cells.get("outcome") or cells[ENDED]


def _outcome(path: str, name: str, model_name: str | None, size: int) -> Iterator[tuple[str, str]]:
    yield "outcome", run_config(path, name, model_name, size)


def print_table(results: dict[str, dict[str, str]], models: list[str]) -> None:
    """Show the outcomes, and how many of them are good."""
    columns = [OWN, *models]
    table = Table("algorithm", *columns)
    for name, row in results.items():
        table.add_row(name, *(" ".join(row.get(column, "").split())[:90] for column in columns))
    console = Console(width=None if os.isatty(1) else 60 + 60 * len(columns))
    console.print(table)
    for column in columns:
        console.print(f"{column}: {sum(row.get(column) == OK for row in results.values())} of {len(results)} run")
