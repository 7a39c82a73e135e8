"""Models of mmdet and mmseg whose backbones learn the sizes of their images from the data samples."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import small_detectors
import small_exact
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from references import relative_error
from torch import Tensor, nn

from adapters.batches import batch_sizes
from adapters.openmmlab.batch_padding import describe_batch_padding
from adapters.openmmlab.count_config import count_config

MODELS = [(make, "mmdet") for make in small_exact.DETECTORS.values()]
MODELS += [(make, "mmseg") for make in small_exact.SEGMENTORS.values()]
NAMES = [*small_exact.DETECTORS, *small_exact.SEGMENTORS]
EVERYTHING = range(len(small_exact.SIZES))


def assert_same_detections(one: Any, other: Any) -> None:
    assert one.pred_instances.scores.max() < 1  # not saturated
    assert len(one.pred_instances) == len(other.pred_instances) > 0
    assert torch.equal(one.pred_instances.labels, other.pred_instances.labels)
    assert (one.pred_instances.scores - other.pred_instances.scores).abs().max() < 1e-4
    assert (one.pred_instances.bboxes - other.pred_instances.bboxes).abs().max() < 1e-2
    if "masks" in one.pred_instances:
        assert (one.pred_instances.masks != other.pred_instances.masks).float().mean() < 1e-3


@pytest.mark.parametrize(("make", "scope"), MODELS, ids=NAMES)
@torch.no_grad()
def test_predictions_are_those_of_the_image_alone(make: Callable[[], dict[str, Any]], scope: str) -> None:
    model = small_exact.build(make(), scope)
    batch = small_exact.batch(model, scope, EVERYTHING)
    before = [dict(sample.metainfo) for sample in batch["data_samples"]]
    together = model(**batch, mode="predict")
    assert [sample.metainfo for sample in together] == before
    for index in EVERYTHING:
        (alone,) = model(**small_exact.batch(model, scope, [index]), mode="predict")
        if scope == "mmdet":
            assert_same_detections(together[index], alone)
        else:
            assert relative_error(together[index].seg_logits.data, alone.seg_logits.data) < 1e-4


def seen_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """The height and width of what the trunks of a model get from now on."""
    seen: list[tuple[int, int]] = []
    for name, module in model.named_modules():
        if name.endswith("backbone"):
            module.trunk.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    return seen


def label(batch: dict[str, Any], scope: str) -> dict[str, Any]:
    """Give each image of a batch a box or a map of labels."""
    for sample in batch["data_samples"]:
        if scope == "mmdet":
            boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
        else:
            sample.gt_sem_seg = PixelData(data=torch.ones(1, *batch["inputs"].shape[-2:], dtype=torch.long))
    return batch


@pytest.mark.parametrize(("make", "scope"), [(small_exact.retinanet, "mmdet"), (small_exact.upernet, "mmseg")])
def test_the_backbone_learns_the_sizes_in_training(make: Callable[[], dict[str, Any]], scope: str) -> None:
    """Its maps are those that ``sizes`` gives, at once and under mixed precision."""
    model = small_exact.build(make(), scope).train()
    batch = label(small_exact.batch(model, scope, EVERYTHING), scope)
    seen = seen_sizes(model)
    maps: list[tuple[Tensor, ...]] = []
    model.backbone.register_forward_hook(lambda *arguments: maps.append(arguments[2]))
    losses = model(**batch, mode="loss")
    model.parse_losses(losses)[0].backward()
    assert sorted(seen) == [(96, 160), (128, 128), (128, 160)]
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=scope == "mmseg"):
        maps.clear()
        model(**batch, mode="loss")
        expected = model.backbone(batch["inputs"], sizes=small_exact.SIZES)
    for one, other in zip(maps[0], expected, strict=True):
        assert torch.equal(one, other)


def soft_teacher() -> dict[str, Any]:
    detector = small_exact.mask_rcnn()
    detector["type"] = "FasterRCNN"
    for key in ("mask_head", "mask_roi_extractor"):
        del detector["roi_head"][key]
    images = dict(type="MultiBranchDataPreprocessor", data_preprocessor=detector.pop("data_preprocessor"))
    settings = dict(
        freeze_teacher=True, sup_weight=1.0, unsup_weight=4.0, pseudo_label_initial_score_thr=0.0,
        rpn_pseudo_thr=0.0, cls_pseudo_thr=0.0, reg_pseudo_thr=1.0, jitter_times=2, jitter_scale=0.06,
        min_pseudo_bbox_wh=(1e-2, 1e-2),
    )  # fmt: skip
    return dict(
        type="SoftTeacher",
        detector=detector,
        data_preprocessor=images,
        semi_train_cfg=settings,
        semi_test_cfg=dict(predict_on="teacher"),
    )


def test_a_detector_inside_another_model() -> None:
    """The student and the teacher extract features of batches that only the outer model knows."""
    model = small_exact.build(soft_teacher(), "mmdet").train()
    inner = small_exact.build(small_exact.retinanet(), "mmdet")
    branches = ("sup", "unsup_teacher", "unsup_student")
    batches = {name: label(small_exact.batch(inner, "mmdet", EVERYTHING), "mmdet") for name in branches}
    for batch in batches.values():
        for sample in batch["data_samples"]:
            sample.set_metainfo({"homography_matrix": torch.eye(3).numpy()})
    seen = seen_sizes(model)
    inputs, samples = ({name: batch[key] for name, batch in batches.items()} for key in ("inputs", "data_samples"))
    losses = model(inputs, samples, mode="loss")
    assert torch.isfinite(model.parse_losses(losses)[0])
    assert sorted(seen) == sorted([(96, 160), (128, 128), (128, 160)] * 3)
    seen.clear()
    with torch.no_grad():
        model.eval()(**small_exact.batch(inner, "mmdet", EVERYTHING), mode="predict")
    assert sorted(seen) == [(96, 160), (128, 128), (128, 160)]


def test_windows_of_a_sliding_inference_are_images_of_their_own() -> None:
    config = {**small_exact.semantic_fpn(), "test_cfg": dict(mode="slide", crop_size=(64, 64), stride=(48, 48))}
    model = small_exact.build(config, "mmseg")
    seen = seen_sizes(model)
    with torch.no_grad():
        together = model(**small_exact.batch(model, "mmseg", EVERYTHING), mode="predict")
        assert set(seen) == {(64, 64)}
        (alone,) = model(**small_exact.batch(model, "mmseg", [1]), mode="predict")
    assert relative_error(together[1].seg_logits.data, alone.seg_logits.data) < 1e-4


@pytest.mark.parametrize("step", ["val_step", "test_step"])
def test_a_loaders_batch_of_mmseg_may_have_several_sizes(step: str) -> None:
    """Whose preprocessor refuses them otherwise, since it pads no test images of different sizes."""
    model = small_exact.build(small_exact.semantic_fpn(), "mmseg")
    seen = seen_sizes(model)

    def run(indices: Sequence[int]) -> list[Any]:
        images = [small_exact.images()[index] for index in indices]
        samples = [SegDataSample(metainfo=dict(img_shape=x.shape[-2:], ori_shape=x.shape[-2:])) for x in images]
        with torch.no_grad():
            return getattr(model, step)(dict(inputs=images, data_samples=samples))

    together = run([0, 1, 0, 2])
    assert len(seen) == 3
    for index, one in zip([0, 1, 0, 2], together, strict=True):
        torch.testing.assert_close(one.seg_logits.data, run([index])[0].seg_logits.data, rtol=1e-4, atol=1e-5)


def test_an_averaged_copy_and_a_pickled_one_know_too() -> None:
    model = small_exact.build(small_exact.retinanet(), "mmdet")
    for twin in (ExponentialMovingAverage(model).module, pickle.loads(pickle.dumps(model)), copy.copy(model)):
        assert type(twin) is type(model)
        assert type(twin).__name__ == "RetinaNet"
        seen = seen_sizes(twin)
        with torch.no_grad():
            twin(**small_exact.batch(twin, "mmdet", EVERYTHING), mode="tensor")
        assert sorted(seen) == [(96, 160), (128, 128), (128, 160)]


def test_a_model_without_it_stays_as_it_is() -> None:
    config = small_exact.retinanet()
    config["backbone"]["batch_padding"] = None
    model = small_exact.build(config, "mmdet")
    assert type(model).__mro__[1].__name__ == "SingleStageDetector"
    seen = seen_sizes(model)
    with torch.no_grad():
        model(**small_exact.batch(model, "mmdet", EVERYTHING), mode="predict")
    assert seen == [(128, 160)]


def test_calls_without_sizes() -> None:
    model = small_exact.build(small_exact.upernet(), "mmseg")
    batch = small_exact.batch(model, "mmseg", EVERYTHING)
    with torch.no_grad():
        model(batch["inputs"], mode="predict")  # mmseg, too, takes images without samples as whole
        with pytest.raises(ValueError, match="knows no sizes of these images"):
            small_exact.build(small_exact.retinanet(), "mmdet").predict(batch["inputs"], {"video": "samples"})
        with pytest.raises(ValueError, match="call the model of mmdet or mmseg that this is the backbone of"):
            model.extract_feat(batch["inputs"])
        with batch_sizes((batch["inputs"], small_exact.SIZES)):
            model.extract_feat(batch["inputs"])
        batch["data_samples"][2].set_metainfo({"img_shape": (200, 100)})
        with pytest.raises(ValueError, match="an image of 200 x 100 cannot lie in a batch of 160 x 160"):
            model(**batch, mode="predict")
        del batch["data_samples"][2].img_shape
        with pytest.raises(ValueError, match="needs img_shape in each data sample: add it to meta_keys"):
            model(**batch, mode="loss")


def test_it_is_told_and_counted() -> None:
    cfg = small_detectors.ready(Config(dict(default_scope="mmdet", model=small_exact.retinanet())))
    assert "one pass for each size" in describe_batch_padding(cfg.model)
    exact = count_config(cfg, (64, 96))
    cfg.model.backbone.batch_padding = None
    assert describe_batch_padding(cfg.model) == ""
    assert count_config(cfg, (64, 96)).multiply_adds == exact.multiply_adds
