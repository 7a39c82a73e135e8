"""Images of a batch are computed as each alone, and its padding reaches no map."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from references import relative_error
from torch import Tensor, nn
from zoo import ZOO, Spec, image

import adapters
from adapters.batches import batch_sizes, run_by_size, sizes_of_call
from adapters.levels import Level

each_spec = pytest.mark.parametrize("spec", ZOO, ids=str)
#: A batch of 64 x 97: an image as large as the batch, and one narrower and lower.
SIZES = [(64, 97), (37, 60)]
#: One of each family, a pyramid, batch norm, and a model that timm builds for one size.
FEW = tuple(spec for spec in ZOO if spec.name in ("twins_svt", "swinv2_cr", "vit_pyramid", "convit", "resnet", "beit"))


def padded(sizes: Any = SIZES, value: float = float("nan")) -> tuple[Tensor, list[Tensor]]:
    """Images of several sizes, together in a batch with values that no image has beyond them, and each alone."""
    largest = [max(sides) for sides in zip(*sizes, strict=True)]
    batch = torch.full((len(sizes), 3, *largest), value)
    alone = [image(*size, batch=1, seed=seed) for seed, size in enumerate(sizes)]
    for place, one in zip(batch, alone, strict=True):
        place[:, : one.shape[-2], : one.shape[-1]] = one[0]
    return batch, alone


@each_spec
@torch.no_grad()
def test_cells_are_those_of_the_image_alone_and_zero_beyond(spec: Spec) -> None:
    adapter = spec.build()
    batch, alone = padded()
    together = adapter(batch, SIZES)
    for feature_map, level in zip(together, adapter.levels, strict=True):
        assert feature_map.shape == (2, level.channels, -(-64 // level.stride), -(-97 // level.stride))
        assert feature_map.is_contiguous()
        assert feature_map.dtype == batch.dtype
    for index, one in enumerate(alone):
        for feature_map, expected in zip(together, adapter(one), strict=True):
            rows, columns = expected.shape[-2:]
            assert relative_error(feature_map[index : index + 1, :, :rows, :columns], expected) < 1e-4
            feature_map[index, :, :rows, :columns] = 0
            assert not feature_map[index].any()


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("spec", FEW, ids=str)
def test_gradients_are_the_sum_of_those_of_the_images(spec: Spec, with_cp: bool) -> None:
    """Those of the parameters and of the images, in eval mode: batch norm mixes images by intent, dropout is random."""
    batch, alone = padded(value=0.0)
    together, single = (spec.build(with_cp=with_cp) for _ in range(2))
    batch.requires_grad_()
    sum(feature_map.square().sum() for feature_map in together(batch, SIZES)).backward()
    for one in alone:
        sum(feature_map.square().sum() for feature_map in single(one.requires_grad_())).backward()
    for (name, parameter), other in zip(together.named_parameters(), single.parameters(), strict=True):
        assert relative_error(parameter.grad, other.grad) < 1e-3 or other.grad.abs().max() < 1e-5, name
    for place, one in zip(batch.grad, alone, strict=True):
        height, width = one.shape[-2:]
        assert relative_error(place[None, :, :height, :width], one.grad) < 1e-3
        assert not place[:, height:].any()
        assert not place[..., width:].any()


def test_images_that_are_padded_alike_run_together() -> None:
    passes: list[tuple[int, ...]] = []

    def run(images: Tensor) -> tuple[Tensor, ...]:
        passes.append(tuple(images.shape))
        return (images[:, :2, ::4, ::4],)

    sizes = [(64, 60), (30, 61), (33, 64), (64, 64)]
    batch, alone = padded(sizes)
    (together,) = run_by_size(run, batch, sizes, [Level(2, 4)], multiple=32)
    assert sorted(passes) == [(1, 3, 32, 64), (3, 3, 64, 64)]
    for place, one in zip(together, alone, strict=True):
        expected = one[0, :2, ::4, ::4]
        assert torch.equal(place[:, : expected.shape[-2], : expected.shape[-1]], expected)
    whole = torch.randn(2, 3, 32, 40)
    passes.clear()
    run_by_size(run, whole, [(32, 40)] * 2, [Level(2, 4)], multiple=32)
    assert passes == [(2, 3, 32, 40)]


@torch.no_grad()
def test_memory_format_autocast_and_empty_batches() -> None:
    adapter = FEW[-1].build()
    batch, _ = padded()
    expected = adapter(batch, SIZES)
    for one, other in zip(adapter(batch.to(memory_format=torch.channels_last), SIZES), expected, strict=True):
        assert one.is_contiguous()
        assert relative_error(one, other) < 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(feature_map.dtype == torch.float32 for feature_map in adapter(batch, SIZES))
    resnet = next(spec for spec in ZOO if spec.name == "resnet").build()
    empty = torch.zeros(0, 3, 64, 96)
    assert [one.shape for one in resnet(empty, [])] == [one.shape for one in resnet(empty)]


def test_compiled_as_one_that_is_told() -> None:
    adapter = next(spec for spec in ZOO if spec.name == "resnet").build(batch_padding="exact")
    batch, _ = padded()
    compiled = torch.compile(adapter, backend="eager")
    for one, other in zip(compiled(batch, SIZES), adapter(batch, SIZES), strict=True):
        torch.testing.assert_close(one, other)


def test_batch_norm_in_training_sees_the_images_of_a_pass() -> None:
    adapter = next(spec for spec in ZOO if spec.name == "resnet").build().train()
    batch, alone = padded()
    together = adapter(batch, SIZES)
    for index, one in enumerate(alone):
        for feature_map, expected in zip(together, adapter(one), strict=True):
            cells = feature_map[index : index + 1, :, : expected.shape[-2], : expected.shape[-1]]
            assert relative_error(cells, expected) < 1e-4


def test_norms_that_wait_for_other_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = next(spec for spec in ZOO if spec.name == "resnet")
    adapter = nn.SyncBatchNorm.convert_sync_batchnorm(spec.build()).train()
    batch, _ = padded()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"SyncBatchNorm waits for the other processes .* set norm_eval=True"):
        adapter(batch, SIZES)
    adapter.eval()(batch, SIZES)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(64, 97)], r"must be a pair \(h, w\) of positive integers for each of the 2 images"),
        ([(64, 97), (64, 98)], "64 x 98 cannot lie in a batch of 64 x 97"),
        ([(71, 97), (64, 97)], "71 x 97 cannot lie in a batch of 64 x 97"),
        ([(64, 97), (0, 97)], "positive integers"),
        ([(64, 97), (7.5, 97)], "positive integers"),
        ([(64, 97), (3, 64, 97)], "positive integers"),
        ([64, 97], "positive integers"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(sizes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FEW[0].build()(torch.zeros(2, 3, 64, 97), sizes)


def test_an_unknown_batch_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_padding='masked' is not allowed: it is 'exact' or None"):
        adapters.TimmAdapter("resnet18", batch_padding="masked")


def test_an_exact_adapter_is_told_or_refuses() -> None:
    adapter = FEW[0].build(batch_padding="exact")
    assert "batch_padding='exact'" in repr(adapter)
    batch, _ = padded(value=0.0)
    expected = adapter(batch, SIZES)
    with batch_sizes((batch, SIZES)):
        assert all(torch.equal(one, other) for one, other in zip(adapter(batch), expected, strict=True))
        with pytest.raises(ValueError, match="knows no sizes of these images: give sizes="):
            adapter(batch.flip(-1))
    with pytest.raises(ValueError, match="knows no sizes of these images: give sizes="):
        adapter(batch)


def test_what_a_call_knows_ends_with_it_and_is_its_own_threads() -> None:
    batch = torch.zeros(2, 3, 8, 8)
    with batch_sizes(others_are_whole=True):
        assert sizes_of_call(batch) == [(8, 8), (8, 8)]
        with batch_sizes((batch, [(8, 8), (4, 4)])):
            assert sizes_of_call(batch) == [(8, 8), (4, 4)]
            with pytest.raises(ValueError, match="knows no sizes"):
                sizes_of_call(batch[:1])
            with batch_sizes():
                assert sizes_of_call(batch) == [(8, 8), (4, 4)]
    start = threading.Barrier(2)

    def run(sizes: list[tuple[int, int]]) -> Any:
        with batch_sizes((batch, sizes)):
            start.wait()
            return sizes_of_call(batch)

    several = [[(8, 8), (4, 4)], [(2, 2), (8, 8)]]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, several)) == several
    with pytest.raises(ValueError, match="knows no sizes"), ThreadPoolExecutor(1) as pool:
        pool.submit(sizes_of_call, batch).result()
