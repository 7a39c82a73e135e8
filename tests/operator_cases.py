"""Cases for mmcv's operators, and what its compiled ones compute on the CPU.

Where mmcv was compiled, `PYTHONPATH=tests python -m operator_cases` writes the records again. By them the tests compare
with the compiled operators where there are none, too.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from mmcv import ops
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.openmmlab.operators.extension import OPERATORS

OURS = SimpleNamespace(**OPERATORS)
RECORDS = Path(__file__).parent / "operator_records.safetensors"

Case = Callable[[], list[Tensor]]


def boxes_of(count: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Boxes ``(N, 4)`` that overlap, and scores ``(N,)``; with ties, few scores and some boxes twice."""
    centres, sides = torch.rand(count, 2) * 30, torch.rand(count, 2) * 20 + 1
    boxes, scores = torch.cat((centres - sides / 2, centres + sides / 2), dim=1), torch.rand(count)
    if ties:
        boxes, scores = boxes.round(), (scores * 4).round() / 4
        boxes[count // 2 :] = boxes[: count - count // 2].clone()
    return boxes, scores


def rois_of(count: int, images: int, size: tuple[int, int], scale: float) -> Tensor:
    """Boxes ``(N, 5)`` of images, some partly outside, one without an area."""
    height, width = size
    starts = torch.rand(count, 2) * torch.tensor([width, height]) / scale * 1.2 - 2
    sides = torch.rand(count, 2) * torch.tensor([width, height]) / scale * 0.6
    rois = torch.cat((torch.randint(images, (count, 1)), starts, starts + sides), dim=1)
    if count:
        rois[0, 3:] = rois[0, 1:3]
    return rois


def differentiate(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of inputs under weights that differ from cell to cell."""
    weights = torch.linspace(-1, 1, max(1, output.numel())).sin()[: output.numel()].view_as(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, weights)]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def nms_case(count: int, ties: bool, offset: int, **settings: float) -> Case:
    return lambda: list(ops.nms(*boxes_of(count, ties), 0.4, offset, **settings))


def soft_nms_case(count: int, ties: bool, method: str, offset: int, min_score: float = 0.05) -> Case:
    return lambda: list(ops.soft_nms(*boxes_of(count, ties), 0.3, 0.5, min_score, method, offset))


def batched_nms_case(kind: str, ties: bool, split: int) -> Case:
    def run() -> list[Tensor]:
        classes = torch.randint(3, (40,))
        settings = {"type": kind, "iou_threshold": 0.5, "split_thr": split}
        return list(ops.batched_nms(*boxes_of(40, ties), classes, settings))

    return run


def nms_match_case(count: int, ties: bool) -> Case:
    def run() -> list[Tensor]:
        boxes, scores = boxes_of(count, ties)
        groups = ops.nms_match(torch.cat((boxes, scores[:, None]), dim=1), 0.4)
        return [torch.tensor([len(group) for group in groups]), *(groups and [torch.cat(groups)])]

    return run


def roi_align_case(mode: str, aligned: bool, ratio: int, bins: tuple[int, int], count: int = 6) -> Case:
    def run() -> list[Tensor]:
        features = leaf(2, 3, 9, 13)
        rois = rois_of(count, 2, (9, 13), 0.25)
        return differentiate(ops.roi_align(features, rois, bins, 0.25, ratio, mode, aligned), [features])

    return run


def deform_conv_case(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, groups: int, offset_groups: int, images: int = 2
) -> Case:
    def run() -> list[Tensor]:
        features, weight = leaf(images, 4, 8, 11), leaf(6, 4 // groups, *kernel)
        size = ops.DeformConv2d(4, 6, kernel, stride, padding, dilation, groups, offset_groups)
        shape = torch.nn.functional.conv2d(features, weight, None, stride, padding, dilation, groups).shape[2:]
        offset = leaf(images, 2 * offset_groups * kernel[0] * kernel[1], *shape)
        output = ops.deform_conv2d(
            features, offset, weight, size.stride, size.padding, size.dilation, groups, offset_groups
        )
        return differentiate(output, [features, offset, weight])

    return run


def modulated_case(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, offset_groups: int, bias: bool, larger: int = 0
) -> Case:
    def run() -> list[Tensor]:
        features, weight = leaf(2, 4, 8, 11), leaf(6, 4 // groups, kernel, kernel)
        shape = torch.nn.functional.conv2d(features, weight, None, stride, padding, dilation, groups).shape[2:]
        shape = [side + larger for side in shape]
        offset, mask = leaf(2, 2 * offset_groups * kernel**2, *shape), leaf(2, offset_groups * kernel**2, *shape)
        inputs = [features, offset, mask, weight, *([leaf(6)] if bias else [])]
        more = [] if bias else [None]
        output = ops.modulated_deform_conv2d(*inputs, *more, stride, padding, dilation, groups, offset_groups)
        return differentiate(output, inputs)

    return run


def psa_mask_case(kind: str, size: tuple[int, int], window: tuple[int, int]) -> Case:
    def run() -> list[Tensor]:
        features = leaf(2, window[0] * window[1], *size)
        return differentiate(ops.PSAMask(kind, window)(features), [features])

    return run


#: Every case, by its module in mmcv.ops and its own name.
CASES: dict[str, Case] = {
    **{
        f"nms/{n},{ties=},{offset=}": nms_case(n, ties, offset)
        for n in (0, 1, 40)
        for ties in (False, True)
        for offset in (0, 1)
    },
    "nms/few of the better": nms_case(40, True, 0, score_threshold=0.3, max_num=5),
    **{
        f"nms/soft,{n},{ties=},{method},{offset=}": soft_nms_case(n, ties, method, offset)
        for n in (0, 1, 40)
        for ties in (False, True)
        for method in ("naive", "linear", "gaussian")
        for offset in (0, 1)
    },
    "nms/soft,all dropped but one": soft_nms_case(40, True, "linear", 0, min_score=0.99),
    **{
        f"nms/batched,{kind},{ties=},{split=}": batched_nms_case(kind, ties, split)
        for kind in ("nms", "soft_nms")
        for ties in (False, True)
        for split in (10, 10000)
    },
    **{f"nms/match,{n},{ties=}": nms_match_case(n, ties) for n in (0, 1, 40) for ties in (False, True)},
    **{
        f"roi_align/{mode},{aligned=},{ratio=},{bins}": roi_align_case(mode, aligned, ratio, bins)
        for mode in ("avg", "max")
        for aligned in (False, True)
        for ratio in (0, 2)
        for bins in ((1, 1), (3, 2), (7, 7))
    },
    "roi_align/avg,no boxes": roi_align_case("avg", True, 0, (7, 7), count=0),
    "roi_align/max,no boxes": roi_align_case("max", True, 0, (7, 7), count=0),
    "deform_conv/3": deform_conv_case((3, 3), 1, 1, 1, 1, 1),
    "deform_conv/1": deform_conv_case((1, 1), 1, 0, 1, 1, 1),
    "deform_conv/stride, dilation": deform_conv_case((3, 3), 2, 2, 2, 1, 1),
    "deform_conv/groups": deform_conv_case((3, 3), 1, 0, 1, 2, 1),
    "deform_conv/offset groups": deform_conv_case((3, 3), 1, 1, 1, 1, 2),
    "deform_conv/oblong": deform_conv_case((1, 3), 1, 1, 1, 2, 2),
    "deform_conv/one image": deform_conv_case((3, 3), 1, 1, 1, 1, 1, images=1),
    "modulated_deform_conv/3": modulated_case(3, 1, 1, 1, 1, 1, bias=True),
    "modulated_deform_conv/1": modulated_case(1, 1, 0, 1, 1, 1, bias=False),
    "modulated_deform_conv/stride, dilation": modulated_case(3, 2, 2, 2, 1, 1, bias=False),
    "modulated_deform_conv/offsets of a larger map": modulated_case(3, 1, 1, 1, 1, 1, bias=True, larger=3),
    "modulated_deform_conv/groups": modulated_case(3, 1, 1, 1, 2, 2, bias=True),
    **{
        f"psa_mask/{kind},{size},{window}": psa_mask_case(kind, size, window)
        for kind in ("collect", "distribute")
        for size, window in (((3, 4), (5, 7)), ((5, 4), (3, 3)), ((1, 2), (1, 1)))
    },
}


@contextmanager
def operators(module: str, extension: ModuleType | SimpleNamespace) -> Iterator[None]:
    """Let a module of mmcv.ops call these operators."""
    place = importlib.import_module(f"mmcv.ops.{module}")
    with mock.patch.object(place, "ext_module", extension):
        yield


def run(name: str, extension: ModuleType | SimpleNamespace) -> list[Tensor]:
    """The results of a case with these operators."""
    torch.manual_seed(0)
    with operators(name.partition("/")[0], extension):
        return [result.detach() for result in CASES[name]()]


def read_records() -> dict[str, list[Tensor]]:
    """The recorded results of every case."""
    stored = load_file(RECORDS)
    records: dict[str, list[Tensor]] = {name: [] for name in CASES}
    for key in sorted(stored, key=lambda key: int(key.rpartition("#")[2])):
        records[key.rpartition("#")[0]].append(stored[key])
    return records


def write_records() -> None:
    from mmcv import _ext

    assert hasattr(_ext, "__file__"), "mmcv has no compiled operators here"
    results = {f"{name}#{number}": result for name in CASES for number, result in enumerate(run(name, _ext))}
    save_file({key: result.contiguous() for key, result in results.items()}, RECORDS)


if __name__ == "__main__":
    write_records()
