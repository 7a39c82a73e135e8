"""Check the spatial prior on every family of timm that has one stride: sizes, gradients, checkpointing, frozen trunks.

One model for each family and patch size, cut to its first blocks. About ten minutes on two cores. Exits with 1 where
something is wrong.

    python tools/check_priors.py
    python tools/check_priors.py --families beit xcit --modes extract
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import timm
import torch
from tqdm import tqdm

from adapters import BackboneAdapter, TimmAdapter
from adapters.levels import Level, is_token_model
from adapters.listing import list_models, record
from adapters.trunk.build import build_without_data, timm_module_name
from lab.child import ENDED, collect
from lab.coverage.checks import (
    SMALL,
    Size,
    WrongError,
    check_maps,
    check_size,
    disable_randomness,
    outcome,
    random_image,
    require,
)
from lab.randomise import randomise

SIZES: tuple[Size, ...] = ((97, 65), (250, 333), (256, 320), (480, 640), (37, 500))
CHANNELS = (1, 4, 13)
MODES = ("concat", "extract")
#: Blocks that are kept of a trunk.
BLOCKS = 4
NOISE = 0.02
#: Cells of the answer that are no verdicts.
NOTES = ("levels", "seconds")


def choose_models() -> dict[tuple[str, int], str]:
    """Choose the narrowest model of each family of one stride and of each of its patch sizes, by both."""
    chosen: dict[tuple[str, int], tuple[int, str]] = {}
    for name in list_models():
        levels = [Level(*level) for level in record(name)["levels"]]
        if is_token_model(levels) and not name.startswith("test_"):
            key = (timm_module_name(name), levels[0].stride)
            chosen[key] = min(chosen.get(key, (10**9, "")), (levels[0].channels, name))
    return {key: chosen[key][1] for key in sorted(chosen)}


def build(name: str, mode: str, **options: Any) -> BackboneAdapter:
    """Build a model's first blocks with a spatial prior, all parameters noisy."""
    torch.manual_seed(0)
    pyramid = {"type": "SpatialPrior", "mode": mode, "norm": options.pop("norm", "LN")}
    depth = len(build_without_data(lambda: TimmAdapter(name)).stage_levels)
    out_indices = tuple(range(min(BLOCKS, depth)))
    return randomise(TimmAdapter(name, out_indices=out_indices, pyramid=pyramid, **options), scale=NOISE)


def measure(name: str, mode: str) -> Iterator[tuple[str, str]]:
    """Yield ``(column, outcome)`` for all that a spatial prior promises over one model."""
    built: list[BackboneAdapter] = []
    answer = outcome(lambda: built.append(build(name, mode)))
    yield "build", answer
    if not built:
        return
    adapter = built[0]
    yield "levels", " ".join(f"{level.channels}/{level.stride}" for level in adapter.levels)
    for size in SIZES:
        yield f"{size[0]}x{size[1]}", outcome(check_size, adapter, size)
    yield "gradients", outcome(check_gradients, adapter)
    yield "with_cp", outcome(check_checkpointing, name, mode, adapter)
    yield "frozen", outcome(check_frozen, name, mode)
    for channels in CHANNELS:
        yield f"{channels} channels", outcome(check_channels, name, mode, channels)
    for norm in ("GN", "BN", "SyncBN"):
        yield norm, outcome(check_norm, name, mode, norm)


def step(adapter: BackboneAdapter, channels: int = 3) -> dict[str, torch.Tensor | None]:
    """Run a step at a small odd size in train mode, without dropout; return the gradients."""
    disable_randomness(adapter.train())
    adapter.zero_grad()
    torch.manual_seed(0)
    maps = adapter(random_image(SMALL, batch=2, channels=channels))
    check_maps(maps, adapter.levels, torch.empty(2, channels, *SMALL))
    torch.stack([(m * torch.randn_like(m)).sum() for m in maps]).sum().backward()
    return {name: p.grad for name, p in adapter.named_parameters()}


def check_gradients(adapter: BackboneAdapter) -> None:
    """Require a finite gradient of every parameter, and none that is zero in the pyramid."""
    gradients = step(adapter)
    missing = [name for name, gradient in gradients.items() if gradient is None]
    require(not missing, f"{len(missing)} parameters without gradient, such as {missing[:1]}")
    infinite = [name for name, g in gradients.items() if g is not None and not torch.isfinite(g).all()]
    require(not infinite, f"{len(infinite)} gradients are not finite, such as {infinite[:1]}")
    silent = [name for name, g in gradients.items() if name.startswith("pyramid.") and g is not None and not g.any()]
    require(not silent, f"{len(silent)} gradients are zero, such as {silent[:1]}")


def check_checkpointing(name: str, mode: str, keeping: BackboneAdapter) -> None:
    """Require of ``with_cp`` the gradients of the adapter that keeps its activations."""
    adapter = build(name, mode, with_cp=True)
    adapter.load_state_dict(keeping.state_dict())
    expected = step(keeping)
    for key, gradient in step(adapter).items():
        if gradient is None or expected[key] is None:
            raise WrongError(f"{key} has no gradient")
        error = (gradient - expected[key]).norm() / expected[key].norm().clamp_min(1e-4)
        require(float(error) < 1e-2, f"the gradient of {key} differs by {float(error):.1e}")


def check_frozen(name: str, mode: str) -> None:
    """Require of a frozen trunk that its maps ask for no gradient, and that the whole pyramid gets one."""
    parts = len(build(name, mode).part_names())
    adapter = build(name, mode, frozen_stages=parts - 1).train()
    wants: list[bool] = []
    adapter.pyramid.register_forward_pre_hook(lambda _, inputs: wants.extend(m.requires_grad for m in inputs[0]))
    trained = {key for key, gradient in step(adapter).items() if gradient is not None}
    require(not any(wants), "the trunk's maps are kept for the backward pass")
    own = {key for key, _ in adapter.named_parameters() if key.startswith("pyramid.")}
    require(trained == own, f"{sorted(trained ^ own)[:2]} are trained or not, wrongly")


def check_channels(name: str, mode: str, channels: int) -> None:
    """Require the step of images with other channels."""
    step(build(name, mode, in_channels=channels), channels)


def check_norm(name: str, mode: str, norm: str) -> None:
    """Require a gradient of every parameter with another norm."""
    missing = [key for key, gradient in step(build(name, mode, norm=norm)).items() if gradient is None]
    require(not missing, f"{len(missing)} parameters without gradient, such as {missing[:1]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every chosen model in each mode, print a line for each, and count what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--families", nargs="+", metavar="NAME", help="files of timm.models, such as beit (default: all of one stride)")
    add("--modes", nargs="+", choices=MODES, default=MODES, help="default: all")
    add("--time-limit", type=float, default=300, help="seconds for one check (default: %(default)s)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="models at once (default: all cores)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    models = choose_models()
    families = {family for family, _ in models}
    if unknown := sorted(set(args.families or ()) - families):
        raise ValueError(
            f"timm {timm.__version__} has no family {', '.join(unknown)} of one stride: {sorted(families)}."
        )
    chosen = [(key, name, mode) for key, name in models.items() for mode in args.modes]
    chosen = [one for one in chosen if not args.families or one[0][0] in args.families]
    failures = 0
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(chosen), dynamic_ncols=True, disable=None) as bar:
        answers = pool.map(lambda one: collect(measure, args.time_limit, *one[1:]), chosen)
        for ((family, patch), name, mode), cells in zip(chosen, answers, strict=True):
            wrong = {key: cell for key, cell in cells.items() if key == ENDED or (key not in NOTES and cell != "ok")}
            failures += bool(wrong)
            bar.write(f"{family:26} {patch:3} {name:36} {mode:8} {wrong or 'ok'} ({cells.get('seconds', '-')} s)")
            bar.update()
    print(f"{len(chosen) - failures} of {len(chosen)} are right, {len({key[0] for key, *_ in chosen})} families")
    return int(failures > 0)
