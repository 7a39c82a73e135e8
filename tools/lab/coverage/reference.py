"""An adapter's maps beside those of timm's own model, built independently and loaded with the same weights.

This reference serves any family, so tables of positions go through timm's own filters and functions. The benchmark and
the tests of the four families know which table there is, and use :mod:`lab.timm_models`.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc, resize_rel_pos_bias_table_levit
from timm.models.nest import resize_pos_embed
from torch import Tensor, nn

from adapters import BackboneAdapter
from adapters.weights.timm_pretrained import catch_timm_loading
from lab.compare import relative_error
from lab.coverage.checks import Size, WrongError, random_image, require, require_close

#: An odd size, small enough for every model.
ODD: Size = (190, 253)
#: For models whose classes or filters know squares alone.
SQUARE: Size = (190, 190)


def compare_with_timm(adapter: BackboneAdapter, name: str, native: Size) -> str:
    """Find one of timm's own models that gives the same maps.

    - ``'built'``: timm's model built with ``img_size`` for the padded image, weights through timm's own filter; where
      it has none for a table, through the function that timm has for that kind of table.
    - ``'square'``: the same for a square image.
    - ``'padded'``: timm's model as it is, on the padded image.
    - ``'native'``: at the model's own size alone.

    Where float32 itself is not as exact as the tolerance (24 blocks of Gemma 4), both are compared in float64.

    Raises:
        WrongError: none does.
    """
    adapter.eval()
    reasons = []
    for kind, build, size in (
        ("built", _built_for_the_size, ODD),
        ("square", _built_for_the_size, SQUARE),
        ("padded", _as_it_is, ODD),
        ("native", _as_it_is, native),
    ):
        image = random_image(size)
        try:
            _compare(adapter, name, build, image)
        except Exception as error:
            reasons.append(f"{kind}: {' '.join(str(error).split())}"[:120])
            continue
        return kind
    raise WrongError("; ".join(reasons))


def _compare(adapter: BackboneAdapter, name: str, build: Callable[..., nn.Module], image: Tensor) -> None:
    height, width = image.shape[-2:]
    before, after = adapter.pad_margins
    multiple = adapter.pad_multiple
    padded = F.pad(image, (before, -width % multiple + after, before, -height % multiple + after))
    model: Any = build(name, adapter.trunk.state_dict(), tuple(padded.shape[-2:]))
    geometry = getattr(adapter, "geometry", None)
    skips = geometry.skips if geometry else ()

    def run(one: BackboneAdapter, dtype: torch.dtype) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the adapter's maps ``(1, C, h, w)``, and timm's for the same cells."""
        one, timms = one.to(dtype), model.to(dtype)
        with torch.no_grad():
            actual = one(image.to(dtype))
            maps = timms.forward_intermediates(padded.to(dtype), indices=list(one.out_indices), intermediates_only=True)
        cells = zip(maps, actual, skips or (0,) * len(maps), strict=True)
        return actual, [m[..., skip : skip + a.shape[-2], skip : skip + a.shape[-1]] for m, a, skip in cells]

    actual, expected = run(adapter, torch.float32)
    try:
        require_close(actual, expected)
    except WrongError:
        check_rounding(actual, expected, *run(copy.deepcopy(adapter), torch.float64))


def check_rounding(
    actual: Sequence[Tensor], expected: Sequence[Tensor], exact: Sequence[Tensor], expected_exact: Sequence[Tensor]
) -> None:
    """Raise unless two models are the same in float64, and in float32 as near to it as each other.

    Args:
        actual: the adapter's maps ``(B, C, H, W)`` in float32.
        expected: timm's in float32.
        exact: the adapter's in float64.
        expected_exact: timm's in float64.
    """
    require_close(exact, expected_exact, 1e-6)
    for one, other, true in zip(actual, expected, expected_exact, strict=True):
        error, allowed = relative_error(one, true), 2 * relative_error(other, true)
        require(
            error <= allowed, f"differs by {error:.1e} from float64, where timm's own rounding is {allowed / 2:.1e}"
        )


def _built_for_the_size(name: str, state: dict[str, Tensor], size: Size) -> nn.Module:
    info = catch_timm_loading(name, 3, {"img_size": size}, device="cpu")
    filtered = info.filter(state) if info.has_filter else dict(state)
    own = info.model.state_dict()
    for key, tensor in filtered.items():
        if key in own and own[key].shape != tensor.shape:
            filtered[key] = _resized(tensor, own[key]) if tensor.is_floating_point() else own[key]
    return _loaded(info.model, filtered)


def _resized(table: Tensor, own: Tensor) -> Tensor:
    """Resize a table by timm's function for its shape, square to square where the shape does not say its grid."""
    if table.ndim == 2:  # biases of absolute offsets
        return resize_rel_pos_bias_table_levit(table.t(), tuple(own.t().shape)).t()
    if table.ndim == 4 and table.shape[:2] == own.shape[:2] and table.shape[3] == own.shape[3]:
        return resize_pos_embed(table, own)
    if table.ndim == 4 and table.shape[3] == own.shape[3]:
        return resample_abs_pos_embed_nhwc(table, list(own.shape[1:3]))
    if table.ndim == 4:
        return F.interpolate(table, size=own.shape[2:], mode="bicubic", antialias=True)
    tokens = table.shape[1]
    prefix = next(count for count in range(tokens) if math.isqrt(tokens - count) ** 2 + count == tokens)
    side = math.isqrt(own.shape[1] - prefix)
    if side * side + prefix != own.shape[1]:
        raise WrongError(f"{tuple(own.shape)} is no square")
    return resample_abs_pos_embed(table, [side, side], num_prefix_tokens=prefix)


def _as_it_is(name: str, state: dict[str, Tensor], _: Size) -> nn.Module:
    for sizing in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            return _loaded(timm.create_model(name, **sizing), state)
        except TypeError:
            continue
    raise AssertionError("a model builds without arguments")


def _loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load all tensors of the adapter's trunk; those that it has pruned stay random and have no part in the maps."""
    unknown = model.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise WrongError(f"timm's model has no {unknown[:2]}")
    return model.eval()
