"""Low-rank factors in folders of peft's, added to the weights that they adapt."""

from adapters.trunk.factor_names import FACTOR, SCALING, is_factor, owner_of
from adapters.tuning.folder import PeftFolder, from_peft, to_peft
from adapters.tuning.merging import merge
from adapters.weights.file import StateDict, read_file
from adapters.weights.formats import TRUNK
from adapters.weights.match import Match

#: The reason why tensors of a folder are left out.
_NOT_NEEDED = "not needed for these maps"


def add_folder(best: Match, folder: PeftFolder) -> None:
    """Add what a folder of peft's holds to the tensors that an adapter gets, in place.

    An adapter with factors gets those of the folder, and a plain one the merged weights.

    Args:
        best: the adapter's tensors, from the weights that the factors adapt; problems are added to it.
        folder: of the factors.
    """
    held = {TRUNK + from_peft(name): tensor for name, tensor in read_file(folder.tensors).items()}
    own = {name for name in best.targets if is_factor(name)}
    tensors = _with_factors(best, folder, held, own) if own else _merged(best, folder, held)
    for name, tensor in tensors.items():
        if name in best.targets and tensor.shape == best.targets[name].shape:
            best.tensors[name] = tensor
        elif name in best.targets:
            shapes = f"{tuple(tensor.shape)} in the folder, {tuple(best.targets[name].shape)} in the model"
            best.problems.append(("shape", name, shapes))
        elif is_factor(name):
            best.problems.append(("unexpected", name, "of a layer that peft=... leaves out here"))
        else:
            best.report.leave_out(_NOT_NEEDED, name)
    best.report.loaded = frozenset(best.tensors)


def _with_factors(best: Match, folder: PeftFolder, held: StateDict, own: set[str]) -> StateDict:
    """Compare a folder with the factors of an adapter; return what it holds."""
    scaling = best.targets[TRUNK + SCALING].item()
    if abs(folder.scaling - scaling) > 0.01 * scaling:
        best.problems.append(("value", SCALING, f"{folder.scaling:g} in the folder, {scaling:g} in the model"))
    best.problems.extend(("missing", name, "not in the folder") for name in sorted(own - set(held)))
    best.report.fresh[:] = [told for told in best.report.fresh if FACTOR.strip(".") not in told]
    return held


def _merged(best: Match, folder: PeftFolder, held: StateDict) -> StateDict:
    """Add the factors of a folder to the weights of an adapter without; return those, and what else it holds."""
    factors: StateDict = {}
    others: StateDict = {}
    for name, tensor in held.items():
        if not is_factor(name):
            others[name] = tensor
        elif f"{owner_of(name)}.weight" in best.tensors:
            factors[to_peft(name)] = tensor
        else:
            best.report.leave_out(_NOT_NEEDED, name)
    return {**merge(best.tensors, factors, folder.config), **others}
