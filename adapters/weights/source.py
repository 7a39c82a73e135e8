"""The name of a checkpoint, as ``weights=...`` or OpenMMLab's ``init_cfg`` gives it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.trunk.hosted_models import hosted_model

#: The forms that the name of a checkpoint may have, as messages list them.
SUPPORTED = "'timm', a path of a file or folder, an http(s):// or file:// URL, or 'hf-hub:owner/name'"

_INIT_CFG_KEYS = {"type", "checkpoint", "prefix", "img_size"}


@dataclass(frozen=True)
class Source:
    """The weights that a user asks for.

    Attributes:
        name: ``'timm'``, a path, a URL, or ``'hf-hub:owner/name'``.
        prefix: the beginning of the names below which the backbone lies; None searches for it.
        img_size: ``(H, W)`` for which the checkpoint's position embeddings are, where their grid is not square.
    """

    name: str
    prefix: str | None = None
    img_size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name


def resolve_source(weights: Any, init_cfg: Any, model_name: str = "") -> Source | None:
    """Return one source for the two idioms, ``weights=...`` and OpenMMLab's ``init_cfg``; None if neither is given.

    Args:
        weights: a name as :class:`Source` has it, or None.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=..., img_size=...)``, the last two optional, or None.
        model_name: the model that they are for; ``'timm'`` means a hosted model's own weights.

    Raises:
        ValueError: both are given, or ``init_cfg`` asks for anything else.
    """
    if not init_cfg:
        return None if weights is None else Source(_checked_name("weights", weights, model_name))
    if weights is not None:
        raise ValueError(f"weights={weights!r} and init_cfg={init_cfg!r} both name a checkpoint; give one of them.")
    if not isinstance(init_cfg, Mapping) or init_cfg.get("type") != "Pretrained" or set(init_cfg) - _INIT_CFG_KEYS:
        raise ValueError(
            f"init_cfg={init_cfg!r}: only dict(type='Pretrained', checkpoint=..., prefix=..., img_size=...) is "
            "supported, since timm has initialised the trunk already. Leave init_cfg out to train from scratch."
        )
    prefix, size = init_cfg.get("prefix"), init_cfg.get("img_size")
    if prefix is not None and not isinstance(prefix, str):
        raise ValueError(f"init_cfg's prefix={prefix!r} must be a string such as 'backbone.'.")
    if size is not None and not (
        isinstance(size, Sequence) and len(size) == 2 and all(isinstance(side, int) for side in size)
    ):
        raise ValueError(f"init_cfg's img_size={size!r} must be two whole numbers, (H, W).")
    checkpoint = _checked_name("init_cfg's checkpoint", init_cfg.get("checkpoint"), model_name)
    return Source(checkpoint, prefix, None if size is None else (size[0], size[1]))


def _checked_name(argument: str, name: Any, model_name: str) -> str:
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{argument}={name!r} must name a checkpoint: {SUPPORTED}; or be None for a random start.")
    hosted = hosted_model(model_name) if name == "timm" else None
    return name if hosted is None else hosted.weights
