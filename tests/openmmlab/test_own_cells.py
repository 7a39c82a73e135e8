"""Necks and heads of models that compute their losses: what lies beyond an image changes nothing in its own cells."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import small_exact
import torch
import torch.nn.functional as F
from lab.randomise import randomise
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from references import relative_error
from torch import Tensor, nn

from adapters import create_adapter
from adapters.openmmlab.own_cells import own_cells

SIZES = small_exact.SIZES
EVERYTHING = range(len(SIZES))


def label(batch: dict[str, Any]) -> dict[str, Any]:
    """Give each image of a batch a box or a map of labels."""
    for sample in batch["data_samples"]:
        if isinstance(sample, DetDataSample):
            boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
        else:
            sample.gt_sem_seg = PixelData(data=torch.ones(1, *batch["inputs"].shape[-2:], dtype=torch.long))
    return batch


def head_outputs(model: nn.Module, head: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    """What a head gives while the model computes its losses."""
    seen: list[Any] = []
    handle = head.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    model(**label(batch), mode="loss")
    handle.remove()
    outputs = seen[0]
    return [outputs] if isinstance(outputs, Tensor) else [x for maps in outputs for x in maps]


def own(maps: Tensor, size: tuple[int, int], whole: tuple[int, int]) -> Tensor:
    stride = round(whole[0] / maps.shape[-2])
    return maps[..., : -(-size[0] // stride), : -(-size[1] // stride)]


@pytest.mark.parametrize(
    ("make", "scope", "head"),
    [
        (small_exact.retinanet, "mmdet", "bbox_head"),
        (small_exact.fcos, "mmdet", "bbox_head"),  # with group norms
        (small_exact.semantic_fpn, "mmseg", "decode_head.conv_seg"),
    ],
)
@torch.no_grad()
def test_heads_give_in_a_batch_what_they_give_for_an_image_alone(
    make: Callable[[], dict[str, Any]], scope: str, head: str
) -> None:
    """Biases are not zero, so that pads are not, either; batch norms use their running statistics."""
    model = small_exact.build(make(), scope)
    randomise(model)
    batch = small_exact.batch(model, scope, EVERYTHING)
    whole = tuple(batch["inputs"].shape[-2:])
    together = head_outputs(model, model.get_submodule(head), batch)
    maps = model.neck(model.backbone(batch["inputs"], sizes=SIZES))
    plain = model.bbox_head(maps) if scope == "mmdet" else [[model.decode_head(maps)]]
    plain = [x for maps in plain for x in maps]
    largest = 0.0
    for index, size in enumerate(SIZES):
        single = small_exact.batch(model, scope, [index])
        single["inputs"] = F.pad(
            single["inputs"], (0, -single["inputs"].shape[-1] % 32, 0, -single["inputs"].shape[-2] % 32)
        )
        alone = head_outputs(model, model.get_submodule(head), single)
        for maps, one, other in zip(together, alone, plain, strict=True):
            if whole[0] // maps.shape[-2] > 32:
                continue  # a map of a neck's own, whose sides are rounded up from others
            own_map = own(one, size, tuple(single["inputs"].shape[-2:]))
            assert relative_error(own(maps[index : index + 1], size, whole), own_map) < 1e-4
            largest = max(largest, relative_error(own(other[index : index + 1], size, whole), own_map))
    assert largest > 1e-3  # without it, they differ


def test_batch_norms_mix_the_images_of_a_batch() -> None:
    """By intent: in training they count all cells, as without this option."""
    model = small_exact.build(small_exact.semantic_fpn(), "mmseg").train()
    batch = label(small_exact.batch(model, "mmseg", EVERYTHING))
    first = model.decode_head.scale_heads[0][0]
    inputs: list[Tensor] = []
    first.conv.register_forward_hook(lambda *arguments: inputs.append(arguments[2].detach()))
    before = first.bn.running_mean.clone()
    losses = model(**batch, mode="loss")
    model.parse_losses(losses)[0].backward()
    torch.testing.assert_close(first.bn.running_mean, 0.9 * before + 0.1 * inputs[0].mean((0, 2, 3)))
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


class Layers(nn.Module):
    """A backbone, and a layer of each kind that reads or counts cells."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_adapter("resnet18", weights=None, trunk=small_exact.TRUNK, out_indices=(1,))
        self.conv, self.norm, self.groups = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.roi_head = nn.Conv2d(4, 4, 3)

    def learn(self, sizes: list[tuple[int, int]], height: int = 32, width: int = 32) -> None:
        self.backbone(torch.zeros(len(sizes), 3, height, width), sizes=sizes)


def patched(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


def test_a_call_ends_with_its_error_too() -> None:
    model = Layers()

    def call() -> None:
        with own_cells(model):
            assert patched(model) == ["conv", "groups"]
            model.learn([(16, 33)])

    with pytest.raises(ValueError, match="cannot lie in a batch"):
        call()
    assert patched(model) == []
    assert not model.backbone._forward_pre_hooks


def test_a_forward_that_another_library_has_replaced_stays() -> None:
    model = Layers()
    model.groups.forward = torch.zeros_like
    with own_cells(model):
        model.learn([(16, 16), (32, 32)])
        assert model.groups(torch.ones(2, 4, 8, 8)).abs().max() == 0
    assert model.groups.forward is torch.zeros_like


def test_a_call_inside_a_call_leaves_the_outer_one() -> None:
    model = Layers()
    with own_cells(model):
        with own_cells(model):
            model.learn([(16, 16)])
            assert model.groups(torch.randn(1, 4, 8, 8))[..., 4:].abs().max() == 0
        model.learn([(16, 16), (32, 32)])
        assert model.groups(torch.randn(2, 4, 8, 8))[0, :, 4:].abs().max() == 0
    assert patched(model) == []


def test_calls_of_several_threads_have_cells_of_their_own() -> None:
    model = Layers()
    together = threading.Barrier(2)

    def count(side: int) -> int:
        """Count the rows that a norm fills, while another thread is in its call of images of another size."""
        with own_cells(model):
            model.learn([(side, side), (32, 32)])
            together.wait(timeout=60)
            rows = model.groups(torch.randn(2, 4, 8, 8))[0].abs().amax((0, 2)).count_nonzero()
            together.wait(timeout=60)
            return int(rows)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(count, (8, 16))) == [2, 4]
    assert patched(model) == []


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(16, 16), (32, 32)], (3, 4, 8, 8)),  # regions, in another number
        ([(16, 16), (32, 32)], (2, 4, 3, 3)),  # of a pooling, with sides that no stride gives
        ([(16, 16), (32, 32)], (2, 4, 8)),  # tokens
        ([(32, 32), (32, 32)], (2, 4, 8, 8)),  # of images that fill the batch
    ],
)
def test_what_is_no_map_of_smaller_images_is_left_as_it_is(
    sizes: list[tuple[int, int]], shape: tuple[int, ...]
) -> None:
    model = Layers()
    maps = torch.randn(shape)
    expected = model.groups(maps)
    with own_cells(model):
        model.learn(sizes)
        assert torch.equal(model.groups(maps), expected)
