"""Put timm models into one config of every algorithm that ships with mmdet and mmseg, and see whether each runs.

For each algorithm (a folder of configs inside the installed packages) the first config is taken that runs with its
own backbone: a loss, its backward and a predict on a tiny synthetic batch, on the CPU. Then `fit_backbone` swaps each
timm model in and the same is asked again. Each run has a process of its own and a time limit.

    python tools/sweep.py --models twins_svt_small convit_tiny --out work_dirs/sweep
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mmdet
import mmseg
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
from adapters.openmmlab.config_tree import drop_pretrained, type_name
from adapters.openmmlab.fit import fit_backbone
from lab.synthetic import make_batch

OWN = "own backbone"
OK = "ok"
SIZES = {"mmdet": (128, 384), "mmseg": (64, 512, 640)}
MAX_QUERIES = 100


def main() -> None:
    args = parse_args()
    register_mmdet(init_default_scope=False)
    register_mmseg(init_default_scope=False)
    torch.set_num_threads(args.threads)
    configs = shipped_configs()
    names = [name for name in configs if not args.algorithms or name in args.algorithms]
    args.out.mkdir(parents=True, exist_ok=True)
    results_path = args.out / "results.json"
    results: dict[str, dict[str, str]] = json.loads(results_path.read_text()) if results_path.exists() else {}
    bar = tqdm(names, dynamic_ncols=True)
    for name in bar:
        bar.set_description(name)
        row = results.setdefault(name, {})
        if row.get(OWN) != OK:
            row.update(first_config_that_runs(configs[name], name, args))
        if row[OWN] == OK:
            for model in args.models:
                if row.get(model) != OK or args.again:
                    row[model] = in_child(run_config, args.time_limit, row["config"], name, model, int(row["size"]))
        write_json(results_path, results)
    print_table({name: results[name] for name in names}, args.models)


def parse_args() -> argparse.Namespace:
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
    return parser.parse_args()


def shipped_configs() -> dict[str, list[Path]]:
    """`mmdet/atss` -> its configs, sorted by name, for every folder of configs that ships."""
    found: dict[str, list[Path]] = {}
    for package in (mmdet, mmseg):
        root = Path(package.__file__).parent / ".mim" / "configs"
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "_base_"):
            files = sorted(folder.glob("*.py"))
            if files:
                found[f"{package.__name__}/{folder.name}"] = files
    return found


def first_config_that_runs(paths: list[Path], name: str, args: argparse.Namespace) -> dict[str, str]:
    """The first config that runs with its own backbone and the size of image it took, or why the first does not."""
    reasons = []
    for path in paths[: args.candidates]:
        for size in SIZES[name.split("/")[0]]:
            reason = in_child(run_config, args.time_limit, str(path), name, None, size)
            if reason == OK:
                return {"config": str(path), "size": str(size), OWN: OK}
            reasons.append(reason)
    return {"config": str(paths[0]), OWN: reasons[0]}


def run_config(path: str, name: str, model_name: str | None, size: int) -> str:
    """Build a config's model, with `model_name` as its backbone if given; one loss, backward and predict."""
    scope = name.split("/")[0]
    torch.manual_seed(0)
    init_default_scope(scope)
    cfg = Config.fromfile(path)
    if "model" not in cfg:
        return "no model in this config"
    if model_name is not None:
        fit_backbone(cfg, model_name)
    drop_pretrained(cfg.model)
    shrink(cfg.model, size)
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
    """Parameters of adapters and bridges that a backward pass has not reached."""
    return [
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, BackboneAdapter | LevelBridge)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]


def shrink(node: Any, size: int) -> None:
    """Leave out what would resize or pad the tiny images, and ask for fewer queries than they have cells."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        shrink(value, size)
    if isinstance(node, dict):
        node.pop("batch_augments", None)
        if type_name(node) == "SegDataPreProcessor":
            node.update(size=(size, size), test_cfg=None)
        if node.get("num_queries", 0) > MAX_QUERIES:
            node["num_queries"] = MAX_QUERIES


def in_child(function: Callable[..., str], time_limit: float, *arguments: Any) -> str:
    """Call a function in a forked process: what it returns, or the error in one line."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=report, args=(sender, function, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(time_limit) else f"no answer in {time_limit:.0f} s"
    except EOFError:
        child.join()
        return f"the process died, exit code {child.exitcode}"
    finally:
        child.kill()
        child.join()


def report(sender: Connection, function: Callable[..., str], arguments: tuple) -> None:
    """Send a function's answer, its output set aside."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        answer = function(*arguments)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}{innermost_place(error)}"
    sender.send(answer)


def innermost_place(error: BaseException) -> str:
    """` (file.py:12)`: where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def print_table(results: dict[str, dict[str, str]], models: list[str]) -> None:
    columns = [OWN, *models]
    table = Table("algorithm", *columns)
    for name, row in results.items():
        table.add_row(name, *(" ".join(row.get(column, "").split())[:90] for column in columns))
    console = Console(width=None if os.isatty(1) else 60 + 60 * len(columns))
    console.print(table)
    for column in columns:
        console.print(f"{column}: {sum(row.get(column) == OK for row in results.values())} of {len(results)} run")


if __name__ == "__main__":
    main()
