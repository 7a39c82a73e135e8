"""The command line of ``tools/layer_decay.py``: the parameter groups that a config's optimiser will have."""

from collections.abc import Sequence

from mmengine.logging import MMLogger
from mmengine.registry import MODELS

from adapters.openmmlab.fit import drop_pretrained
from adapters.openmmlab.layer_decay import TimmLayerDecayConstructor, format_groups
from adapters.openmmlab.run import load_config, make_parser
from adapters.trunk.build import build_without_data


def print_layer_decay(arguments: Sequence[str] | None = None) -> None:
    """Build a config's model without data, group its parameters, and print the groups.

    Raises:
        ValueError: the config has no layer-wise decay and no rate is given, or as the constructor.
    """
    parser = make_parser("Print the parameter groups of a config with TimmLayerDecayConstructor.")
    parser.add_argument("--decay-rate", type=float, help="instead of the config's own, or where it has none")
    parser.add_argument("--names", action="store_true", help="list the parameters of each group")
    args = parser.parse_args(arguments)
    cfg, notes = load_config(args)
    for note in notes:
        print(note)
    wrapper = dict(cfg.optim_wrapper)
    constructor = wrapper.pop("constructor", None)
    paramwise = dict(wrapper.pop("paramwise_cfg", None) or {})
    name = TimmLayerDecayConstructor.__name__
    if args.decay_rate is not None:
        paramwise["decay_rate"] = args.decay_rate
    elif constructor != name:
        raise ValueError(
            f"{args.config} has optim_wrapper.constructor={constructor!r}, not {name!r}: set it in the config, or give "
            "--decay-rate to see what it would do."
        )
    paramwise.pop("print_groups", None)
    drop_pretrained(cfg.model)
    model = build_without_data(lambda: MODELS.build(cfg.model))
    grouping = TimmLayerDecayConstructor(wrapper, paramwise)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")  # mmengine's constructor logs a line for each parameter
    grouping.add_params([], model)
    logger.setLevel(level)
    print(format_groups(grouping.groups))
    if args.names:
        for group in grouping.groups:
            print(f"\nlayer {'-' if group.layer is None else group.layer}, lr {group.lr:.3g}:")
            print("\n".join(f"  {parameter}" for parameter in group.names))
