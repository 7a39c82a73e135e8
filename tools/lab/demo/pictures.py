"""The pictures of the demonstration: predictions beside ground truth, and the training curve."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch import nn

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from adapters.files import atomic_write

#: Pictures in a row, and rows at most: images with all that is predicted for them.
COLUMNS, ROWS = 5, 4
SCORE_THRESHOLD = 0.3


def draw_predictions(models: Mapping[str, nn.Module], dataset: Any, path: Path) -> None:
    """Draw images of a dataset: ground truth above, below it what each model predicts.

    Args:
        models: trained ones by title.
        dataset: mmdet's or mmseg's.
        path: the PNG to write.
    """
    meta = dataset.metainfo
    titles = ("ground truth", *models)
    blocks = ROWS // len(titles)
    chosen = [round(place) for place in np.linspace(0, len(dataset) - 1, blocks * COLUMNS)]
    rows = blocks * len(titles)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(2.75 * COLUMNS, 2.4 * rows + 0.4), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for place, index in enumerate(chosen):
        data = dataset[index]
        with Image.open(data["data_samples"].img_path) as image:
            pixels = np.asarray(image)
        for offset, title in enumerate(titles):
            predicted = title in models
            result = models[title if predicted else titles[1]].test_step(pseudo_collate([dataset[index]]))[0]
            axis = axes[len(titles) * (place // COLUMNS) + offset, place % COLUMNS]
            axis.imshow(pixels)
            axis.set_title(title, fontsize=9, pad=2, color="0.3")
            draw = _draw_boxes if "pred_instances" in result else _draw_classes
            draw(axis, result, predicted, meta)
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


def draw_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]], metric: str, title: str, scale: float, path: Path
) -> None:
    """Draw the loss of each training and the metric of its validations against the iteration.

    Args:
        runs: what each run logged, by title; training records hold ``loss``, validation records ``metric``.
        metric: its name in the records.
        title: its name for people.
        scale: brings the logged metric to 0 to 1.
        path: the PNG to write.
    """
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    right = left.twinx()
    for place, (name, records) in enumerate(runs.items()):
        colour = f"C{place}"
        steps, losses = zip(*((record["step"], record["loss"]) for record in records if "loss" in record), strict=True)
        left.plot(steps, losses, color=colour, label=name)
        validations = [(record["step"], scale * record[metric]) for record in records if metric in record]
        for step, score in validations:
            right.plot(step, score, "o", color=colour)
            right.annotate(f"{score:.2f}", (step, score), (-6, 0), textcoords="offset points", ha="right", va="center")
    left.set_xlabel("iteration")
    left.set_ylabel("training loss (line)")
    left.set_ylim(bottom=0)
    left.set_xlim(left=0)
    left.legend(loc="upper center", frameon=False)
    right.set_ylabel(f"validation {title} (point)")
    right.set_ylim(0, 1)
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
