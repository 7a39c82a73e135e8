"""Layer-wise learning-rate decay for every timm backbone, in mmdet and mmseg alike.

What starts from pretrained weights learns slower the further it is from the new parts (BEiT, arXiv 2106.08254, section
3.2, and ViTDet, arXiv 2203.16527): the learning rate of layer ``l`` is ``lr * decay_rate ** (head - l)``, where the
neck, the heads and a pyramid inside the adapter are layer ``head`` and train at ``lr``, the last block at
``lr * decay_rate``, and the stem slowest. For a ViT of 12 blocks ``head`` is 13, as in ViTDet's own code.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS
from torch import nn

from adapters.base import BackboneAdapter
from adapters.openmmlab.config_tree import drop_pretrained
from adapters.registry import register_optim_wrapper_constructor
from adapters.trunk.build import build_without_data
from adapters.trunk.layer_numbers import layer_numbers, names_without_decay

#: Keys of ``paramwise_cfg``: ours, and those of mmengine's default constructor.
OWN_KEYS = ("decay_rate", "print_groups")
MMENGINE_KEYS = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "dwconv_decay_mult",
    "flat_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
)


@dataclass(frozen=True)
class Group:
    """One parameter group of the optimiser, described for printing.

    Attributes:
        layer: number counted from the image, 0 is the stem; None outside of trunks.
        scale: the factor of the learning rate that comes from the layer.
        lr: the learning rate.
        weight_decay: None where the optimiser's own default holds.
        names: names of its parameters in the model.
        parameters: number of values in them.
    """

    layer: int | None
    scale: float
    lr: float
    weight_decay: float | None
    names: tuple[str, ...]
    parameters: int


@register_optim_wrapper_constructor
class TimmLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimiser of a detector or segmentor with learning rates that decay through its timm backbone.

    The layers are those of timm's ``group_matcher``, and parameters that timm's ``no_weight_decay`` names get none;
    both are asked of the adapter's trunk, wherever in the model it stands. The rest is mmengine's default constructor:
    its keys of ``paramwise_cfg`` work as they do there, a ``lr_mult`` multiplies the layer's scale, and a
    ``decay_mult`` of ``custom_keys`` comes before ``no_weight_decay``. A parameter that several modules share counts
    once.

    ::

        optim_wrapper = dict(
            constructor='TimmLayerDecayConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
            paramwise_cfg=dict(decay_rate=0.7, norm_decay_mult=0.0, print_groups=True))

    Args:
        optim_wrapper_cfg: ``optimizer`` and the keywords of the wrapper, of any type, as without a constructor.
        paramwise_cfg: ``decay_rate``, above 0 and at most 1, and, as wanted, ``print_groups`` (log a line for each
            group) and mmengine's own keys.

    Raises:
        ValueError: a key is unknown or missing, the rate is not allowed, the optimiser has no ``lr``, or the model has
            no backbone of ours.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        settings = dict(paramwise_cfg or {})
        _check_keys(settings)
        self.decay_rate = _check_rate(settings.pop("decay_rate", None))
        self.print_groups = bool(settings.pop("print_groups", False))
        # Heads that are used several times hold the same modules again; a parameter must be in one group.
        settings.setdefault("bypass_duplicate", True)
        super().__init__(optim_wrapper_cfg, settings)
        if self.base_lr is None:
            raise ValueError(
                f"TimmLayerDecayConstructor scales the learning rate of each layer, but optimizer={self.optimizer_cfg} "
                "has no lr: set it."
            )
        #: Groups of the last model that an optimiser was built for.
        self.groups: list[Group] = []

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: int | float | None = None
    ) -> None:
        """Fill ``params`` with the groups of ``module``; the outermost call scales and merges them."""
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if prefix == "":
            params[:] = self._decay(params, module)
            if self.print_groups:
                print_log(f"layer-wise decay of the learning rate:\n{format_groups(self.groups)}", logger="current")

    def _decay(self, params: Sequence[dict], model: nn.Module) -> list[dict]:
        """Scale the learning rates, and merge groups of one parameter each by their settings."""
        layers, spared = _read_backbones(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        merged: dict[tuple, dict] = {}
        for group in params:
            settings: dict[str, Any] = {"lr": self.base_lr, **group}
            (parameter,) = settings.pop("params")
            layer, head = layers.get(id(parameter), (None, 0))
            scale = 1.0 if layer is None else self.decay_rate ** (head - layer)
            settings["lr"] *= scale
            if id(parameter) in spared and "decay_mult" not in settings:
                settings["weight_decay"] = 0.0
            key = (-1 if layer is None else layer, scale, *sorted((k, str(v)) for k, v in settings.items()))
            merged.setdefault(key, {"params": [], **settings})["params"].append(parameter)
        # From the stem to the head, so that logs and resumed optimisers see one order.
        ordered = sorted(merged, key=lambda key: (key[0] < 0, key))
        self.groups = [
            Group(
                layer=None if key[0] < 0 else key[0],
                scale=key[1],
                lr=merged[key]["lr"],
                weight_decay=merged[key].get("weight_decay", self.base_wd),
                names=tuple(names[id(parameter)] for parameter in merged[key]["params"]),
                parameters=sum(parameter.numel() for parameter in merged[key]["params"]),
            )
            for key in ordered
        ]
        return [merged[key] for key in ordered]


def groups_of_config(cfg: Config, decay_rate: float | None = None) -> list[Group]:
    """Build a config's model without data, and group its parameters as the constructor would.

    Args:
        cfg: of mmdet or mmseg, whose modules are registered. Its pretrained weights are removed, in place.
        decay_rate: takes the place of the config's own rate, or of none.

    Raises:
        ValueError: the config has no layer-wise decay and no rate is given, or as the constructor.
    """
    wrapper = dict(cfg.optim_wrapper)
    constructor = wrapper.pop("constructor", None)
    paramwise = dict(wrapper.pop("paramwise_cfg", None) or {})
    name = TimmLayerDecayConstructor.__name__
    if decay_rate is not None:
        paramwise["decay_rate"] = decay_rate
    elif constructor != name:
        raise ValueError(
            f"{cfg.filename} has optim_wrapper.constructor={constructor!r}, not {name!r}: set it in the config, or "
            "give --decay-rate to see what it would do."
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
    return grouping.groups


def _read_backbones(model: nn.Module) -> tuple[dict[int, tuple[int, int]], set[int]]:
    """Collect layer and head's layer of each parameter in the model's adapters, and parameters without weight decay.

    Raises:
        ValueError: there is none.
    """
    layers: dict[int, tuple[int, int]] = {}
    spared: set[int] = set()
    adapters = [module for module in model.modules() if isinstance(module, BackboneAdapter)]
    if not adapters:
        raise ValueError(
            f"TimmLayerDecayConstructor found no timm backbone in {type(model).__name__}: use it with "
            "backbone=dict(type='TimmAdapter', model_name=...), or leave out optim_wrapper.constructor."
        )
    for adapter in adapters:
        numbers, head = layer_numbers(adapter)
        layers.update({id(parameter): (numbers[name], head) for name, parameter in adapter.named_parameters()})
        spared.update(id(adapter.trunk.get_parameter(name)) for name in names_without_decay(adapter.trunk))
    return layers, spared


def _check_keys(settings: dict[str, Any]) -> None:
    allowed = (*OWN_KEYS, *MMENGINE_KEYS)
    for key in settings:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(allowed)}."
            if key == "num_layers":
                hint = "timm's model says how many layers there are: leave it out."
            raise ValueError(f"paramwise_cfg of TimmLayerDecayConstructor has no key {key!r}: {hint}")


def _check_rate(rate: Any) -> float:
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= 1:
        raise ValueError(
            f"paramwise_cfg of TimmLayerDecayConstructor needs decay_rate above 0 and at most 1, got {rate!r}: "
            "0.7 for a ViT-B and 0.8 for a ViT-L as in ViTDet, 1 for no decay."
        )
    return float(rate)


def format_groups(groups: Sequence[Group]) -> str:
    """Print each group in a line: layer, factor, learning rate, weight decay, number and place of its parameters."""
    lines = [f"{'layer':>5}  {'scale':>9}  {'lr':>9}  {'decay':>7}  {'params':>11}  of"]
    for group in groups:
        layer = "-" if group.layer is None else str(group.layer)
        decay = "-" if group.weight_decay is None else f"{group.weight_decay:.3g}"
        lines.append(
            f"{layer:>5}  {group.scale:>9.3g}  {group.lr:>9.3g}  {decay:>7}  {group.parameters:>11,}  "
            f"{', '.join(_summarise_names(group.names))}"
        )
    return "\n".join(lines)


def _summarise_names(names: Sequence[str]) -> list[str]:
    """List the blocks of a trunk (``backbone.trunk.blocks.0``) and the parts of a model that names lie in, in order.

    A name in a trunk is cut after its second number where blocks are numbered inside stages, or else after its first.
    """
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        inside = parts.index("trunk") + 1 if "trunk" in parts else 0
        numbered = [index for index, part in enumerate(parts) if index >= inside and part.isdigit()][:2]
        if not inside:
            end = 2 if parts[0] == "backbone" else 1
        elif not numbered:
            end = inside + 1
        else:
            end = numbered[-1] + 1 if numbered[-1] - numbered[0] <= 2 else numbered[0] + 1
        found[".".join(parts[:end])] = None
    return list(found)
