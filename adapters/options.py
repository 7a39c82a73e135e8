"""The options that every adapter takes, as the type with which a family hands them on to the base."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class AdapterOptions(TypedDict, total=False):
    """The keyword arguments of :class:`adapters.BackboneAdapter`, which explains them."""

    out_indices: Sequence[int] | None
    weights: str | None
    pyramid: Mapping[str, Any] | None
    in_channels: int
    out_norm: bool
    drop_path_rate: float
    frozen_stages: int
    norm_eval: bool
    with_cp: bool
    trunk: Mapping[str, Any] | None
    peft: Mapping[str, Any] | None
    init_cfg: Mapping[str, Any] | None
    keep_head: bool
    batch_padding: str | None
