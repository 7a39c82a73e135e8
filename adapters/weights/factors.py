"""Low-rank factors in whole checkpoints, beside the weights that they adapt."""

from dataclasses import replace

from adapters.trunk.factor_names import FACTOR, SCALING, is_factor, owner_of
from adapters.tuning.folder import to_peft
from adapters.tuning.library import ADAPTER, make_config
from adapters.tuning.merging import merge
from adapters.tuning.options import LowRankOptions
from adapters.weights.file import StateDict
from adapters.weights.key_prefixes import Checkpoint, strip_prefix
from adapters.weights.target import OwnPart

#: The factors of an adapter with ``peft=...``.
FACTORS = OwnPart(
    "*lora_*", "start without effect", remedy="of a layer that peft=... leaves out here: take that of its training"
)

_FIRST = f"{FACTOR}A.{ADAPTER}.weight"


def settle_factors(tensors: StateDict, *, merged: bool) -> tuple[StateDict, int]:
    """Give a checkpoint of a tuned model the plain model's names, and merge its factors if asked for.

    Factors that came without a number for their scaling, as other programs save them, stay.

    Args:
        tensors: of any shape, by names with any prefix.
        merged: add the factors to the weights that they adapt.

    Returns:
        The tensors, and the number of layers whose factors were merged.

    Raises:
        ValueError: the factors do not fit their layers.
        ModuleNotFoundError: there are some to merge, and peft is not installed.
    """
    layers = [name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)]
    bases = {f"{layer}.base_layer": layer for layer in layers}
    owners = {name: name.rpartition(".") for name in tensors}
    state = {
        f"{bases[owner]}.{own}" if owner in bases else name: tensors[name] for name, (owner, _, own) in owners.items()
    }
    if not merged or not layers:
        return state, 0
    count = 0
    places = [name.removesuffix(SCALING) for name in state if name.endswith(SCALING)]
    for place in places:
        inner = strip_prefix(state, place)
        for options, group in _by_options(inner).items():
            own = [name for name in inner if is_factor(name) and owner_of(name) in group]
            merged_weights = merge(inner, {to_peft(name): inner[name] for name in own}, make_config(options, group))
            state.update({place + name: weight for name, weight in merged_weights.items()})
            for name in own:
                del state[place + name]
            count += len(group)
        del state[place + SCALING]
    return state, count


def settle_checkpoint(checkpoint: Checkpoint, *, merged: bool) -> tuple[Checkpoint, str]:
    """Do the same with the tensors of a checkpoint, and tell it."""
    state, count = settle_factors(checkpoint.tensors, merged=merged)
    return replace(checkpoint, tensors=state), f"the low-rank factors of {count} layers merged" if count else ""


def _by_options(trunk: StateDict) -> dict[LowRankOptions, list[str]]:
    """Group the layers of a trunk by what their factors tell of their options."""
    groups: dict[LowRankOptions, list[str]] = {}
    for layer in [name.removesuffix(_FIRST) for name in trunk if name.endswith(_FIRST)]:
        if f"{layer}.weight" not in trunk:
            continue
        kind = "DoRA" if f"{layer}.lora_magnitude_vector.{ADAPTER}.weight" in trunk else "LoRA"
        rank = len(trunk[layer + _FIRST])
        groups.setdefault(LowRankOptions(kind, rank, trunk[SCALING].item() * rank), []).append(layer)
    return groups
