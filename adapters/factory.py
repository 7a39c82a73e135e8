"""The way from a model's name to the adapter of its family."""

import functools
import inspect
from typing import Any

from adapters.base import BackboneAdapter
from adapters.families.convit import ConViTAdapter
from adapters.families.generic import GenericAdapter
from adapters.families.swinv2_cr import SwinV2CrAdapter
from adapters.families.twins import TwinsAdapter
from adapters.families.vision_transformer import VisionTransformerAdapter
from adapters.registry import register_model
from adapters.trunk.build import check_model_name, timm_module_name

FAMILIES: tuple[type[BackboneAdapter], ...] = (
    TwinsAdapter,
    SwinV2CrAdapter,
    VisionTransformerAdapter,
    ConViTAdapter,
)


def family_of(model_name: str) -> type[BackboneAdapter]:
    """The adapter class that serves a timm model.

    Raises:
        ValueError: timm has no such model; the nearest names are listed.
    """
    check_model_name(model_name)
    module = timm_module_name(model_name)
    return next((family for family in FAMILIES if module in family.timm_modules), GenericAdapter)


@functools.cache
def _options_of(family: Any) -> frozenset[str]:
    """Name the arguments of a family: those of the base, and its own."""
    named = {*inspect.signature(BackboneAdapter).parameters, *inspect.signature(family).parameters}
    return frozenset(named - {"options"})  # the base's, as a family takes them


@register_model
def TimmAdapter(model_name: str, **options: Any) -> BackboneAdapter:  # noqa: N802, the name of a registered type
    """Build the adapter of any timm model, at random; ``init_weights()`` loads.

    Args:
        model_name: any timm name, with or without a weights tag.
        options: those of :class:`BackboneAdapter`, and those of the model's family.

    Raises:
        ValueError: an unknown model, an option that its family does not have, or a value that is not allowed.
    """
    family = family_of(model_name)
    cls: Any = family
    known = _options_of(cls)
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{model_name} is served by {family.__name__}, which takes no {', '.join(unknown)}; "
            f"it takes {', '.join(sorted(known - {'model_name'}))}."
        )
    return family(model_name, **options)


def create_adapter(model_name: str, **options: Any) -> BackboneAdapter:
    """Build the adapter of any timm model and load its weights.

    >>> backbone = create_adapter("twins_svt_small", out_indices=(1, 2, 3))
    >>> [level.stride for level in backbone.levels]
    [8, 16, 32]

    Args:
        model_name: any timm name, with or without a weights tag.
        options: those of :class:`BackboneAdapter`, and those of the model's family; ``weights=None`` stays random.

    Raises:
        ValueError: as :func:`TimmAdapter`, or the weights do not fit.
    """
    adapter = TimmAdapter(model_name, **options)
    if adapter.weights is not None:
        adapter.init_weights()
    return adapter
