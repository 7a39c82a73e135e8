"""The command ``dense-adapters layer-decay``."""

import argparse
import sys
from collections.abc import Sequence

from adapters.commands.quiet import quiet
from adapters.commands.train import CONFIG_HELP, add_config_arguments
from adapters.registry import require_mmengine

EPILOG = """examples:
  dense-adapters layer-decay adapters::upernet_vit-base-rope_160k_ade20k-512x512
  dense-adapters layer-decay mmdet::retinanet_r50_fpn_1x_coco --backbone twins_svt_small --decay-rate 0.8 --names"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters layer-decay",
        description="Print the groups of parameters that TimmLayerDecayConstructor makes of a config's model: layers, "
        "learning rates, weight decays.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help=CONFIG_HELP)
    add_config_arguments(parser)
    parser.add_argument("--decay-rate", type=float, help="instead of the config's own, or where it has none")
    parser.add_argument("--names", action="store_true", help="list the parameters of each group")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the groups; return 0.

    Raises:
        ValueError: the config has no layer-wise decay and no rate is given, or as the constructor.
    """
    args = make_parser().parse_args(arguments)
    require_mmengine("dense-adapters layer-decay")
    with quiet(sys.stderr):  # mmdet and mmseg print when they are imported
        from adapters.openmmlab.layer_decay import format_groups, groups_of_config
        from adapters.openmmlab.run import load_config, parse_overrides

        cfg, notes = load_config(args.config, backbone=args.backbone, overrides=parse_overrides(args.cfg_options))
    for note in notes:
        print(note)
    groups = groups_of_config(cfg, args.decay_rate)
    print(format_groups(groups))
    if args.names:
        for group in groups:
            print(f"\nlayer {'-' if group.layer is None else group.layer}, lr {group.lr:.3g}:")
            print("\n".join(f"  {parameter}" for parameter in group.names))
    return 0
