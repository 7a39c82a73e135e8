"""The command ``dense-adapters describe``."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any

from rich.console import Console
from tqdm import tqdm

from adapters.base import BackboneAdapter
from adapters.describe.backbones import PYRAMID, Backbone, describe_backbone
from adapters.describe.tables import Row, backbone_row, config_row, failed_row, to_json, to_markdown, to_table
from adapters.levels import format_levels
from adapters.listing import list_models
from adapters.necks.build import PYRAMIDS
from adapters.openmmlab.config_files import is_config_name
from adapters.registry import require_mmengine
from adapters.trunk.build import build_without_data

EPILOG = """examples:
  dense-adapters describe twins_svt_small
  dense-adapters describe 'convnext*_tiny*' swinv2_cr_tiny_ns_224 --size 512 512 --markdown
  dense-adapters describe adapters::retinanet_twins-svt-s_fpn_1x_coco
  dense-adapters describe mmdet::retinanet_r50_fpn_1x_coco --backbone twins_svt_small"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe models and configs; return 1 where one of several cannot be described.

    Raises:
        ValueError: a name is unknown, with what is near it.
    """
    args = make_parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    configs = [name for name in args.names if is_config_name(name)]
    models = _expand([name for name in args.names if not is_config_name(name)])
    if (args.backbone or args.cfg_options) and not configs:
        raise ValueError(
            "--backbone and --cfg-options change a config: give one, such as mmdet::retinanet_r50_fpn_1x_coco."
        )
    if len(configs) + len(models) == 1 and not (args.markdown or args.json):
        _print_config(configs[0], args, console) if configs else _print_backbone(models[0], args, console)
        return 0
    rows: list[Row] = []
    for name in tqdm(models + configs, dynamic_ncols=True, disable=None):
        try:
            rows.append(_describe_config(name, args)[0] if name in configs else backbone_row(_describe(name, args)))
        except ValueError as error:
            rows.append(failed_row(name, error))
    _print_rows(rows, args, console)
    return int(any(row["note"] for row in rows))


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters describe",
        description="Describe timm models as backbones, and the models of configs: levels, parameters, multiply-adds "
        "(attention counted) and, for a single model, the lines for a config.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="+", help="timm models, patterns, or configs (a path, adapters::NAME, mmdet::NAME, mmseg::NAME)")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="pixels; default: a model's native size, a config's own")
    add("--out-indices", nargs="+", type=int, help="stages or blocks of the models, as in the adapter")
    pyramids = parser.add_mutually_exclusive_group()
    pyramids.add_argument(
        "--pyramid", action="store_true", help="give the models a SimpleFeaturePyramid of 256 channels"
    )
    pyramids.add_argument(
        "--spatial-prior",
        choices=tuple(PYRAMIDS["SpatialPrior"]),
        help="give the models a SpatialPrior of 256 channels in this mode",
    )
    add("--backbone", metavar="NAME", help="put this timm model into the configs first")
    add(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the configs'",
    )
    add("--markdown", action="store_true", help="print a Markdown table")
    add("--json", action="store_true", help="print JSON")
    return parser


def _expand(names: Iterable[str]) -> list[str]:
    """Replace patterns by the names of the matching models that work as backbones.

    Raises:
        ValueError: timm has no model of a pattern.
    """
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(list_models(name) if any(sign in name for sign in "*?[") else [name]))
    return list(found)


def _describe(name: str, args: argparse.Namespace) -> Backbone:
    options: dict[str, Any] = {}
    if args.out_indices:
        options["out_indices"] = tuple(args.out_indices)
    if args.pyramid:
        options["pyramid"] = PYRAMID
    elif args.spatial_prior:
        options["pyramid"] = {"type": "SpatialPrior", "mode": args.spatial_prior, "out_channels": 256}
    return describe_backbone(name, tuple(args.size) if args.size else None, options)


def _print_backbone(name: str, args: argparse.Namespace, console: Console) -> None:
    backbone = _describe(name, args)
    cost = backbone.count
    console.print(f"[bold]{backbone.name}[/bold], served by {backbone.family}")
    console.print(f"levels         {format_levels(backbone.levels)}, out_indices={backbone.out_indices}")
    _print_images(str(backbone.preprocessing), console)
    console.print(f"export         {'any height and width' if backbone.exports_any_size else 'one height and width'}")
    console.print(f"parameters     {cost.parameters / 1e6:.2f} M")
    console.print(
        f"multiply-adds  {cost.multiply_adds / 1e9:.2f} G at {cost.size[0]} x {cost.size[1]}, "
        f"{cost.attention / 1e9:.2f} G of them attention"
    )
    if card := backbone.classifier:
        console.print(
            f"whole model    {card.parameters / 1e6:.2f} M, {card.multiply_adds / 1e9:.2f} G at "
            f"{card.size[0]} x {card.size[1]}, {card.attention / 1e9:.2f} G of them attention: timm's classifier, the "
            "figures of a model card, of which some leave fused attention out"
        )
    console.print(f"\n{backbone.lines}", markup=False, highlight=False, soft_wrap=True)


def _describe_config(name: str, args: argparse.Namespace) -> tuple[Row, Any, str, str]:
    """Make a config's row of a table, count its model, and say how it normalises images and treats their padding.

    Raises:
        ValueError: as ``load_config``, or the model cannot be built or run.
    """
    require_mmengine("describing a config")
    with redirect_stdout(sys.stderr):  # mmdet and mmseg print when they are imported
        from mmengine.registry import MODELS

        from adapters.openmmlab.batch_padding import describe_batch_padding
        from adapters.openmmlab.config_tree import find_owner
        from adapters.openmmlab.count_config import count_config
        from adapters.openmmlab.fit.images import images_become
        from adapters.openmmlab.run import load_config, parse_overrides

        cfg, _ = load_config(name, backbone=args.backbone, overrides=parse_overrides(args.cfg_options))
        cost = count_config(cfg, tuple(args.size) if args.size else None)
    backbone = find_owner(cfg.model)[0]["backbone"]
    levels: Sequence[Any] = ()
    if "TimmAdapter" in str(backbone.get("type") if isinstance(backbone, dict) else ""):
        adapter = build_without_data(lambda: MODELS.build(backbone))
        assert isinstance(adapter, BackboneAdapter)
        levels = adapter.levels
    padding = describe_batch_padding(cfg.model)
    _, images = images_become(cfg)
    return config_row(name, cfg.model.type, levels, cost), cost, str(images or "not of three channels"), padding


def _print_config(name: str, args: argparse.Namespace, console: Console) -> None:
    row, cost, images, padding = _describe_config(name, args)
    console.print(f"[bold]{name}[/bold], {row['family']}")
    if row["channels"]:
        console.print(f"levels         channels {row['channels']}, strides {row['strides']}")
    _print_images(images, console)
    if padding:
        console.print(f"batch padding  {padding}")
    parts = ", ".join(f"{part} {parameters / 1e6:.2f}" for part, parameters in cost.parts)
    console.print(f"parameters     {cost.parameters / 1e6:.2f} M: {parts}")
    console.print(
        f"multiply-adds  {cost.multiply_adds / 1e9:.2f} G at {cost.size[0]} x {cost.size[1]}, "
        f"{cost.attention / 1e9:.2f} G of them attention"
    )


def _print_images(normalisation: str, console: Console) -> None:
    console.print(f"images         {normalisation}: pixels of 0 to 255 become (pixel - mean) / std", markup=False)


def _print_rows(rows: Sequence[Row], args: argparse.Namespace, console: Console) -> None:
    if args.json:
        print(to_json(rows))
    elif args.markdown:
        print(to_markdown(rows))
    else:
        console.print(to_table(rows))
