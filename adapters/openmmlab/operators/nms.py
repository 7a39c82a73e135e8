"""Non-maximum suppression: hard, soft, and with the boxes that each kept one suppresses."""

import numpy as np
import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that are kept, by falling score.

    Args:
        boxes: ``(N, 4)``, x1, y1, x2, y2.
        scores: ``(N,)``.
        iou_threshold: a box that overlaps a kept one by more is dropped.
        offset: 1 where a box from 0 to 9 is 10 wide, else 0.
    """
    # Which of two equal scores comes first is left to torch's sort here, since the compiled operator does so.
    order = scores.sort(descending=True).indices
    kept = torchvision.ops.nms(_with_ends(boxes.float(), offset)[order], scores.float()[order], iou_threshold)
    return order[kept]


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes ``(N, 5)``, whose last column is their score, by the kept one that suppresses them.

    Returns:
        Indices of each group: the kept box, then the others by falling score. A box joins where its overlap is
        ``iou_threshold`` or more.
    """
    boxes, scores = dets[:, :4].float(), dets[:, 4].float()
    waiting = scores.sort(descending=True).indices
    groups = []
    while len(waiting):
        first, others = waiting[0], waiting[1:]
        joins = torchvision.ops.box_iou(boxes[first, None], boxes[others])[0] >= iou_threshold
        groups.append([int(first), *others[joins].tolist()])
        waiting = others[~joins]
    return groups


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of the boxes that overlap better ones (Soft-NMS, arXiv 1704.04503), on the CPU.

    The order is that of the compiled operator for equal scores, too: the best box changes places with the first one
    that waits, and the last one takes the place of a box that falls below ``min_score``.

    Args:
        boxes: ``(N, 4)``, x1, y1, x2, y2.
        scores: ``(N,)``.
        dets: ``(N, 5)``; its first rows become the boxes that are left, with their scores.
        iou_threshold: overlap from which a score is lowered, for the methods 0 and 1.
        sigma: width of the Gaussian of method 2.
        min_score: score below which a box is dropped.
        method: 0 drops a box, 1 multiplies its score by ``1 - overlap``, 2 by a Gaussian of the overlap.
        offset: 1 where a box from 0 to 9 is 10 wide, else 0.

    Returns:
        Indices of the boxes that are left, ``(K,)``, in the order of ``dets``.
    """
    corners = _with_ends(boxes.float(), offset).numpy()
    left = np.concatenate([corners, scores.float()[:, None].numpy(), _areas(corners)[:, None]], axis=1)
    indices: np.ndarray = np.arange(len(left))
    best = 0
    while best < len(left):
        first = best + _first_of_best(left[best:, 4])
        left[[best, first]], indices[[best, first]] = left[[first, best]], indices[[first, best]]
        waiting = left[best + 1 :]
        waiting[:, 4] *= _weights(left[best], waiting, iou_threshold, sigma, method)
        stays = ~(waiting[:, 4] < min_score)
        count = int(stays.sum())
        holes, movers = np.flatnonzero(~stays[:count]), count + np.flatnonzero(stays[count:])[::-1]
        waiting[holes], indices[best + 1 + holes] = waiting[movers], indices[best + 1 + movers]
        left, indices = left[: best + 1 + count], indices[: best + 1 + count]
        best += 1
    kept = torch.from_numpy(indices.copy())
    dets[: len(kept), :4] = boxes[kept].to(dets)
    dets[: len(kept), 4] = torch.from_numpy(left[:, 4].copy()).to(dets)
    return kept


def _with_ends(boxes: Tensor, offset: int) -> Tensor:
    """Move the right and lower ends of boxes ``(N, 4)`` by the offset, so that a width is a plain difference."""
    return boxes + boxes.new_tensor([0, 0, offset, offset])


def _first_of_best(scores: np.ndarray) -> int:
    """Find the best score; one that is not a number is only found in the first place."""
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _areas(corners: np.ndarray) -> np.ndarray:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])


def _weights(best: np.ndarray, others: np.ndarray, threshold: float, sigma: float, method: int) -> np.ndarray:
    """Compute the factors for the scores of rows x1, y1, x2, y2, score, area that overlap the best one."""
    sides = np.minimum(best[2:4], others[:, 2:4]) - np.maximum(best[:2], others[:, :2])
    inter = sides.clip(min=0).prod(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without an area: their overlap is not a number
        overlap = inter / (best[5] + others[:, 5] - inter)
    if method == 2:
        return np.exp(-(overlap * overlap) / np.float32(sigma))
    lowered = 1 - overlap if method == 1 else np.zeros_like(overlap)
    return np.where(overlap >= np.float32(threshold), lowered, np.float32(1))
