"""Loading weights into an adapter, in one place: strictly, with a report, and never silently at random."""

import logging
from dataclasses import replace

import torch

from adapters.tuning.folder import CONFIG
from adapters.tuning.folder import find as find_folder
from adapters.tuning.folder import read as read_folder
from adapters.weights.interpret import interpretations
from adapters.weights.match import Match, match
from adapters.weights.peft_folder import add_folder
from adapters.weights.report import Report, table
from adapters.weights.source import Source
from adapters.weights.target import WeightsTarget


def load_weights(adapter: WeightsTarget, source: Source | None) -> Report | None:
    """Load weights into an adapter and log a report: all of its tensors are set, or none and an error is raised.

    Args:
        adapter: as built, at random.
        source: None leaves it so, with a warning.

    Raises:
        ValueError: the checkpoint cannot be found or read, or it does not fit: a tensor is missing, unexpected, of
            another shape or not finite, the classifier and the layers that the adapter has no use for aside.
    """
    if source is None:
        log(
            f"{adapter.model_name}: the backbone starts from random weights (weights=None), unless a checkpoint that "
            "is resumed or loaded next replaces them.",
            logging.WARNING,
        )
        return None
    best = _match_of(adapter, source)
    if best.problems:
        raise ValueError(_misfit(adapter, source, best))
    with torch.no_grad():
        for key, tensor in best.tensors.items():
            best.targets[key].copy_(tensor)
    best.report.notes.extend(adapter.after_load(best.interpretation.format))
    log(f"{adapter.model_name}: {best.report}", logging.INFO)
    return best.report


def _match_of(adapter: WeightsTarget, source: Source) -> Match:
    """Pair an adapter with a source, which may be a folder of peft's that names the weights that it adapts."""
    path = find_folder(source.name)
    if path is None:
        return _best_match(adapter, source)
    folder = read_folder(path)
    if not folder.base:
        raise ValueError(
            f"weights={source.name!r} holds low-rank factors alone, and its {CONFIG} does not name the weights that "
            "they adapt: write there, as base_model_name_or_path, what weights=... takes, such as 'timm' or a path."
        )
    best = _best_match(adapter, replace(source, name=folder.base))
    if not best.problems:
        add_folder(best, folder)
        best.report.source += f", with the low-rank factors of {source.name}"
    return best


def _best_match(adapter: WeightsTarget, source: Source) -> Match:
    """Return the interpretation with the fewest problems; timm's filter is not asked where the names alone will do."""
    best: Match | None = None
    for group in interpretations(adapter, source):
        for interpretation in group:
            candidate = match(adapter, interpretation)
            # Of two that fit, the later one: there timm itself has resized what is of another size.
            if best is None or len(candidate.problems) <= len(best.problems):
                best = candidate
            if candidate.is_exact or (not candidate.problems and interpretation.img_size):
                return candidate
        if best is not None and not best.problems:
            return best
    assert best is not None, "a source has at least one interpretation"
    return best


def _misfit(adapter: WeightsTarget, source: Source, best: Match) -> str:
    count, expected = len(best.problems), len(best.targets)
    absent = sum(kind == "missing" for kind, _, _ in best.problems)
    return (
        f"weights={source.name!r} does not fit {adapter.model_name}: {count} problem{'s' if count > 1 else ''}, "
        f"{len(best.tensors)} of {expected} tensors match ({best.report.found_as}). "
        + ("It looks like a checkpoint of another model. " if absent > expected // 2 else "")
        + f"Nothing was loaded.\n{table(best.problems)}"
    )


def log(message: str, level: int) -> None:
    """Log a message through mmengine where a run uses its logger, else through Python's logger ``adapters``."""
    try:
        from mmengine import logging as run_logging
    except ModuleNotFoundError:
        run_logging = None
    if run_logging is not None and run_logging.MMLogger._instance_dict:
        run_logging.print_log(message, logger="current", level=level)
    else:
        logging.getLogger("adapters").log(level, message)
