"""The pictures of the demonstration: predictions beside ground truth, and the training curve."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from PIL import Image

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from adapters.files import atomic_write

PAIRS, PAIRS_PER_ROW = 8, 4
SCORE_THRESHOLD = 0.3


def draw_predictions(runner: Runner, path: Path) -> None:
    """Draw images of the validation set twice: ground truth above, the model's prediction below.

    Args:
        runner: after training; its validation dataset is mmdet's or mmseg's.
        path: the PNG to write.
    """
    dataset = runner.val_dataloader.dataset
    meta = dataset.metainfo
    chosen = [round(place) for place in np.linspace(0, len(dataset) - 1, PAIRS)]
    rows = 2 * -(-PAIRS // PAIRS_PER_ROW)
    figure, axes = plt.subplots(rows, PAIRS_PER_ROW, figsize=(11, 2.55 * rows + 0.4), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for place, index in enumerate(chosen):
        data = dataset[index]
        with Image.open(data["data_samples"].img_path) as image:
            pixels = np.asarray(image)
        result = runner.model.test_step(pseudo_collate([data]))[0]
        row, column = 2 * (place // PAIRS_PER_ROW), place % PAIRS_PER_ROW
        for offset, title in enumerate(("ground truth", "prediction")):
            axis = axes[row + offset, column]
            axis.imshow(pixels)
            axis.set_title(title, fontsize=8, pad=2, color="0.3")
            draw = _draw_boxes if "pred_instances" in result else _draw_classes
            draw(axis, result, bool(offset), meta)
    shown = [name for name in meta["classes"] if name != "background"]
    colours = dict(zip(meta["classes"], meta["palette"], strict=True))
    patches = [Patch(color=_unit(colours[name]), label=name) for name in shown]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(shown), frameon=False)
    _save(figure, path, meta["palette"])


def _draw_boxes(axis: Axes, result: Any, predicted: bool, meta: Mapping[str, Any]) -> None:
    instances = (result.pred_instances if predicted else result.gt_instances).cpu()
    if predicted:
        instances = instances[instances.scores >= SCORE_THRESHOLD]
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes).numpy()
    for place, (box, label) in enumerate(zip(boxes, instances.labels.tolist(), strict=True)):
        colour = _unit(meta["palette"][label])
        left, top, right, bottom = box
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.6))
        text = meta["classes"][label]
        if predicted:
            text += f" {instances.scores[place]:.2f}"
        axis.text(
            max(left, 0),
            max(top, 0),
            text,
            fontsize=6,
            color="white",
            verticalalignment="top",
            clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )


def _draw_classes(axis: Axes, result: Any, predicted: bool, meta: Mapping[str, Any]) -> None:
    labels = (result.pred_sem_seg if predicted else result.gt_sem_seg).data[0].cpu().numpy()
    palette = np.concatenate([np.array(meta["palette"]) / 255, np.full((len(meta["palette"]), 1), 0.75)], axis=1)
    palette[0] = 0  # the background stays as it is
    axis.imshow(palette[labels], interpolation="nearest")


def draw_curve(records: Sequence[Mapping[str, float]], metric: str, title: str, scale: float, path: Path) -> None:
    """Draw the loss of training and the metric of validation against the iteration.

    Args:
        records: what the run logged; training records hold ``loss``, validation records ``metric``.
        metric: its name in the records.
        title: its name for people.
        scale: brings the logged metric to 0 to 1.
        path: the PNG to write.
    """
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    steps, losses = zip(*((record["step"], record["loss"]) for record in records if "loss" in record), strict=True)
    left.plot(steps, losses, color="tab:blue")
    left.set_xlabel("iteration")
    left.set_ylabel("training loss", color="tab:blue")
    left.set_ylim(bottom=0)
    right = left.twinx()
    steps, scores = zip(*((record["step"], record[metric]) for record in records if metric in record), strict=True)
    right.plot(steps, [scale * score for score in scores], "o-", color="tab:orange")
    for step, score in zip(steps, scores, strict=True):
        right.annotate(f"{scale * score:.2f}", (step, scale * score), (0, 6), textcoords="offset points", ha="center")
    right.set_ylabel(f"validation {title}", color="tab:orange")
    right.set_ylim(0, 1)
    left.set_xlim(left=0)
    _save(figure, path)


def _unit(colour: Sequence[int]) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in colour)


def _save(figure: Figure, path: Path, colours: Sequence[Sequence[int]] = ()) -> None:
    """Write a figure as a PNG of 256 colours, a third of the size.

    ``colours`` (0 to 255) are among them, however little of the picture they cover.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    with Image.open(buffer) as image:
        pixels = image.convert("RGB")
    palette = Image.new("P", (1, 1))
    found = pixels.quantize(256 - len(colours)).getpalette() or []
    palette.putpalette(found[: 3 * (256 - len(colours))] + [value for colour in colours for value in colour])
    with atomic_write(path) as partial:
        pixels.quantize(palette=palette, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)
