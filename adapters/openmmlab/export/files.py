"""The files of an exported detector or segmentor: its graphs, each verified, and the decoding beside them."""

import copy
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import Tensor, nn

from adapters.export import decoding
from adapters.export.backbones import EXAMPLE, HalfPrecision
from adapters.export.handing_over import write_verified
from adapters.export.tracing import Freedom
from adapters.export.verification import HALF_TOLERANCE, TOLERANCE, Case, Check, cases_of, make_image
from adapters.export.writing import check_ending
from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.export.graphs import Graph, Whole
from adapters.openmmlab.export.metadata import describe_file
from adapters.openmmlab.export.whole import as_graphs
from adapters.openmmlab.model_checkpoint import check_whole
from adapters.openmmlab.peft_folders import as_checkpoint, settle_for
from adapters.openmmlab.whole_model import read_model

#: The name of a checkpoint for a model that starts at random, to try an export.
RANDOM = "random"

#: Boxes that the second stage of a detector is traced with; others are compared.
BOXES = 5


def load_model(cfg: Config, checkpoint: str) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """Build the model of a config and load a checkpoint of all of it.

    Args:
        cfg: of mmdet or mmseg, whose modules are registered. Not changed.
        checkpoint: a path, a URL, a folder of peft's, or ``'random'``.

    Returns:
        The model, what the checkpoint says of its data, and notes.

    Raises:
        ValueError: the checkpoint cannot be read, or is of another model.
    """
    config = copy.deepcopy(cfg.model)
    drop_pretrained(config)
    model = MODELS.build(config)
    if checkpoint == RANDOM:
        draw_weights(model)
        return model, {}, ["the weights are random: the file is for a trial"]
    with as_checkpoint(cfg, checkpoint) as name:
        contents = read_model(name)
    settled = settle_for(model, contents)
    _, told = check_whole(model, contents, checkpoint)
    model.load_state_dict(contents["state_dict"], strict=False)
    meta = contents.get("meta")
    dataset_meta = meta.get("dataset_meta") if isinstance(meta, dict) else None
    return model, dataset_meta if isinstance(dataset_meta, dict) else {}, [told, *([settled] if settled else [])]


def draw_weights(model: Any) -> None:
    """Start a model at random, without mmengine's line about each weight.

    Some parameters of mmdet's hold whatever was in memory before.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def export_model(
    cfg: Config,
    model: nn.Module,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    half: bool = False,
    dataset_meta: dict[str, Any] | None = None,
) -> tuple[dict[str, Check], list[str]]:
    """Write a detector or segmentor as files that end at its heads' raw outputs, verified, and their decoding.

    A detector of two stages becomes several files: ``NAME.onnx``, and beside it ``NAME.boxes.onnx`` and
    ``NAME.masks.onnx``. The folder ``decoding`` lies beside them: a package of numpy alone, for machines without torch.

    Args:
        cfg: of the model.
        model: with its weights; it is not changed.
        path: ends in ``.pt2`` or ``.onnx``.
        size: ``(H, W)`` of the images as the graph takes them, padded; None for any.
        batch: images at once; None for any number.
        half: compute in float16, but for the second stage of a detector, whose boxes need more digits.
        dataset_meta: what the checkpoint says of its data.

    Returns:
        For each file, by name, the comparison with the model; and notes.

    Raises:
        ValueError: the model cannot be exported in this way, or what was written differs from it; no file is left.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    path = Path(path)
    check_ending(path)
    own, whole = as_graphs(model)
    _check_size(size, whole, path)
    if half and "classes" in whole.graphs[0].outputs:
        raise ValueError(
            f"{path.name}: {whole.head} chooses cells and computes positions, for which float16 has too few digits; "
            "leave --half out."
        )
    metadata, notes = describe_file(cfg, own, whole, dataset_meta or {})
    checks: dict[str, Check] = {}
    try:
        for graph in whole.graphs:
            file = path if graph is whole.graphs[0] else path.with_name(f"{path.stem}.{graph.name}{path.suffix}")
            checks[file.name] = _write(graph, file, whole, metadata, own, size, batch, half)
    except BaseException:
        for name in checks:
            for left in path.parent.glob(f"{name}*"):
                left.unlink()
        raise
    copy_decoding(path.parent)
    return checks, notes


def _write(
    graph: Graph,
    file: Path,
    whole: Whole,
    metadata: dict[str, Any],
    own: Any,
    size: tuple[int, int] | None,
    batch: int | None,
    half: bool,
) -> Check:
    channels = getattr(own.backbone, "in_channels", 3)
    half = half and graph is whole.graphs[0]
    draw = _drawing(whole, graph)
    example = (batch or EXAMPLE[0], *(_enlarge(EXAMPLE[1:], whole, own, channels) if size is None else size))
    cases = cases_of(batch, size)
    if size is None:
        cases = tuple((count, *_enlarge(sides, whole, own, channels)) for count, *sides in cases)
    return write_verified(
        HalfPrecision(graph.module) if half else graph.module,
        file,
        example=draw(example, channels, len(cases)),
        names=graph.outputs,
        cases=cases,
        freedom=Freedom(batch is None, size is None),
        metadata=metadata if graph is whole.graphs[0] else {},
        name=f"{type(own).__name__}'s {graph.name}" if len(whole.graphs) > 1 else type(own).__name__,
        tolerance=HALF_TOLERANCE if half else TOLERANCE,
        reference=graph.module,
        inputs=graph.inputs,
        draw=lambda case, _, seed: draw(case, channels, seed),
        given=graph.given,
    )


def _enlarge(sides: Sequence[int], whole: Whole, own: Any, channels: int) -> tuple[int, int]:
    """Make the sides of an image multiples of what they must be, and the image as large as it must be."""
    for factor in itertools.count(1):
        height, width = _round([factor * side for side in sides], whole.multiple)
        if not whole.cells:
            break
        with torch.no_grad():
            maps = own.extract_feat(torch.zeros(1, channels, height, width))
        if sum(one.shape[2] * one.shape[3] for one in maps) >= whole.cells:
            break
    return height, width


def _round(sides: Sequence[int], multiple: int) -> tuple[int, int]:
    """Round the sides of an image up to a multiple."""
    return -(-sides[0] // multiple) * multiple, -(-sides[1] // multiple) * multiple


def _check_size(size: tuple[int, int] | None, whole: Whole, path: Path) -> None:
    if size is not None and size != _round(size, whole.multiple):
        raise ValueError(
            f"{path.name}: this model takes images whose sides are multiples of {whole.multiple}, and size {size[0]} x "
            f"{size[1]} is none; the next is {_round(size, whole.multiple)}."
        )


def _drawing(whole: Whole, graph: Graph) -> Callable[[Case, int, int], tuple[Tensor, ...]]:
    """Return what draws the inputs of a graph: an image, or boxes of all sizes and the maps of an image."""
    first = whole.graphs[0]
    if graph is first:
        return lambda case, channels, seed: (make_image(case, channels, seed),)

    def draw(case: Case, channels: int, seed: int) -> tuple[Tensor, ...]:
        count, height, width = case
        with torch.no_grad():
            outputs = dict(zip(first.outputs, first.module(make_image(case, channels, seed)), strict=True))
        generator = torch.Generator().manual_seed(seed)
        boxes = BOXES + 8 * seed
        numbers = torch.randint(count, (boxes, 1), generator=generator)
        shares = torch.rand(boxes, 2, 2, generator=generator).sort(1).values
        corners = (shares * torch.tensor([width, height])).flatten(1)
        return (torch.cat([numbers, corners], 1), *(outputs[name] for name in graph.inputs[1:]))

    return draw


def copy_decoding(folder: Path) -> Path:
    """Write the package ``decoding`` into a folder; return its place."""
    source, target = Path(decoding.__file__).parent, folder / "decoding"
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target
