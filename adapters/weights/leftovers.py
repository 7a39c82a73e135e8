"""Tensors of training runs that have no part in feature maps, told by their names and, for heads, by their shapes."""

import re
from collections.abc import Mapping

from torch import Tensor

#: Last parts of the names of buffers that models compute from their size, in timm's past and present versions, in the
#: authors' code and in other projects. A checkpoint may hold them, lack them, or hold them for another size.
COMPUTED_BUFFERS = frozenset(
    {
        "attention_bias_idxs",
        "attn_mask",
        "bias_mask",
        "freqs_cis",
        "freqs_cos",
        "freqs_sin",
        "inv_freq",
        "num_batches_tracked",
        "periods",
        "position_ids",
        "rel_indices",
        "relative_coordinates_log",
        "relative_coords_table",
        "relative_position_index",
    }
)

#: Parts of names that peft and its like give to weights that are not merged into the model's.
_UNMERGED = re.compile(r"(.*[._])?(lora|lokr|loha|hada|oft|boft|vera|ia3|adalora)(_\w+)?(\..*)?")

#: Whole names of tensors without a part in the maps, and the reason.
_KINDS = (
    (r"(local_)?cls_norm\.(weight|bias)", "the norm of class tokens"),
    (r"(\w*_)?decoders?(_\w+)?(\..*)?|decode_head\..*", "the decoder of a pretraining"),
    (r"(\w+\.)?mask(ed)?_(token|embed)s?", "the token of masked patches"),
    (
        r"(\w*_)?(heads?|classifier|fc|projector)(\d+|_\w+)?(\..*)?|(visual|text)_projection\..*|"
        r"(predictor|prototypes?|pooler|logits|linear|criterion|\w*loss|queue|queue_ptr|logit_scale|logit_bias)(\..*)?",
        "a head",
    ),
    (
        r"(\w*_)?(optimizers?|(lr_)?schedulers?|scaler|rng_states?|callbacks|loops|meta)(_\w+)?\..*",
        "the state of a training",
    ),
)

#: Norms after the last block, of which the maps have one at most.
_FINAL_NORMS = re.compile(r"((fc_)?norm|layer_?norm|ln\d?|ln_post|head\.norm)\.(weight|bias)")

#: Parts of names that no head has; what they name may work on the maps.
_NOT_OF_HEADS = re.compile(r"adapt|prompt|token|embed|pos|gate|patch|stem|block|layer(?!norm)|stage|scale")


def is_unmerged(name: str) -> bool:
    """Return whether a tensor is one of a low-rank adapter that is not merged into the weights."""
    return bool(_UNMERGED.fullmatch(name))


def reason_to_leave(name: str, has_final_norm: bool) -> str:
    """Return why a tensor that the model has no place for has no part in the maps; empty where it may have one.

    Args:
        name: its name, timm's or another project's.
        has_final_norm: the maps are normed by a layer that the model has a place for.
    """
    if _FINAL_NORMS.fullmatch(name):
        return "" if has_final_norm else "a norm that these maps do not have"
    return next((reason for pattern, reason in _KINDS if re.fullmatch(pattern, name)), "")


def heads_by_shape(unknown: Mapping[str, Tensor], parts: frozenset[str], width: int) -> list[str]:
    """List the tensors ``(N, width)`` and their like of heads that no name tells.

    A head is a module beside the model's own that takes its features and ends in another width; where it ended in the
    same one, it could as well stand before or among the blocks.

    Args:
        unknown: tensors that the model has no place for.
        parts: the first parts of the names of the model's own tensors.
        width: the number of the model's final features.
    """
    groups: dict[str, list[str]] = {}
    for name in unknown:
        groups.setdefault(name.split(".")[0], []).append(name)
    found: list[str] = []
    for part, names in groups.items():
        matrices = [unknown[name] for name in names if unknown[name].ndim == 2]
        if part in parts or _NOT_OF_HEADS.search(part) or not matrices or "." not in names[0]:
            continue
        plain = all(unknown[name].ndim <= 2 and not is_unmerged(name) for name in names)
        if plain and matrices[0].shape[1] == width and matrices[-1].shape[0] != width:
            found += names
    return found
