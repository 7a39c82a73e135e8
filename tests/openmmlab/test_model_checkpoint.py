"""What of a checkpoint fits a model: all of it for a test, parts of it for a training, and nothing by chance."""

from typing import Any

import pytest
import torch
from mmengine.config import Config
from small_detectors import build, ready, resnet_segmentor, retinanet, two_stage
from torch import Tensor

from adapters.openmmlab.checkpoint_parts import build_model
from adapters.openmmlab.model_checkpoint import check_partial, check_whole


def state_of(cfg: Config) -> dict[str, Tensor]:
    return build(cfg).state_dict()


def check(checker: Any, cfg: Config, state: dict[str, Tensor]) -> Any:
    return checker(build_model(ready(cfg)), {"state_dict": state}, "x.pth")


def test_the_model_of_a_check_has_no_data_and_asks_for_none() -> None:
    cfg = ready(retinanet(weights="/nowhere.pth"))
    assert {parameter.device.type for parameter in build_model(cfg).parameters()} == {"meta"}
    assert cfg.model.backbone.weights == "/nowhere.pth"


def test_a_whole_model_is_counted() -> None:
    fit, told = check(check_whole, retinanet(), {key: value.half() for key, value in state_of(retinanet()).items()})
    assert told == "x.pth: 96 of the model's 96 tensors are loaded"
    assert fit.covers("")
    assert fit.covers("backbone")
    assert not fit.covers("back")


def test_what_the_model_makes_itself_may_be_missing_and_more_may_be_there() -> None:
    state = state_of(resnet_segmentor())
    for key in [key for key in state if key.endswith("num_batches_tracked")]:
        del state[key]
    state._metadata = {"": {"version": 1}, **{key: {"version": 2} for key in state._metadata}}
    state["auxiliary_head.conv_seg.bias"] = torch.ones(4)
    _, told = check(check_whole, resnet_segmentor(), state)
    assert "1 unexpected (auxiliary_head 1)" in told
    assert "counters and indices made by the model itself (backbone.stem.1.num_batches_tracked, " in told


def test_a_missing_statistic_is_not_harmless() -> None:
    state = state_of(resnet_segmentor())
    del state["backbone.stem.1.running_var"]
    with pytest.raises(ValueError, match=r"1 missing; not in it: backbone\.stem\.1\.running_var\."):
        check(check_whole, resnet_segmentor(), state)


@pytest.mark.parametrize(
    ("cfg", "other", "messages"),
    [
        (
            retinanet(),
            retinanet(classes=5),
            [
                "94 of the model's 96 tensors fit, 2 of another shape (bbox_head.retina_cls.weight (45, 16, 3, 3) for "
                "(27, 16, 3, 3), ",
                "not in it: bbox_head.retina_cls.weight, bbox_head.retina_cls.bias. ",
                "needs every tensor: the number of classes or the widths are others.",
            ],
        ),
        (
            retinanet(),
            resnet_segmentor(),
            [
                "x.pth is no checkpoint of this RetinaNet: 0 of the model's 96 tensors fit, 96 missing, ",
                "; not in it: backbone 72 of 72, neck 16 of 16, bbox_head 8 of 8. ",
                "It seems to be a whole model of the parts backbone, decode_head. ",
            ],
        ),
        (two_stage(masks=True), two_stage(), ["6 missing; not in it: roi_head.mask_head 6 of 6. "]),
        (
            resnet_segmentor(),
            resnet_segmentor(depth=34),
            ["unexpected (backbone", "larger than the model's: backbone. "],
        ),
        (
            retinanet(),
            retinanet(model_name="test_convnext", trunk=None),
            [": the backbone is another one, perhaps put in with `--backbone NAME` in training."],
        ),
    ],
    ids=["classes", "task", "masks", "depth", "backbone"],
)
def test_a_test_needs_all_of_the_very_model(cfg: Config, other: Config, messages: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^x\.pth is no checkpoint of this .*\.$") as caught:
        check(check_whole, cfg, state_of(other))
    assert [message for message in messages if message not in str(caught.value)] == []


def test_a_head_less_is_the_same_model() -> None:
    fit, told = check(check_whole, two_stage(), state_of(two_stage(masks=True)))
    assert fit.covers("")
    assert told.endswith("6 unexpected (roi_head 6)")


def test_values_that_are_not_finite() -> None:
    state = state_of(retinanet())
    state["neck.fpn_convs.0.conv.weight"][0, 0, 0, 0] = float("nan")
    for checker in (check_whole, check_partial):
        with pytest.raises(ValueError, match=r"not finite, in neck\.fpn_convs\.0\.conv\.weight\."):
            check(checker, retinanet(), state)


def test_torch_renames_old_tensors() -> None:
    """mmdet takes the head of a single-stage detector for the RPN's."""
    state = {key.replace("rpn_head.", "bbox_head."): value for key, value in state_of(two_stage()).items()}
    fit, _ = check(check_whole, two_stage(), state)
    assert fit.covers("rpn_head")


def test_other_classes_start_a_head_half_afresh() -> None:
    fit, told = check(check_partial, retinanet(classes=5), state_of(retinanet()))
    assert fit.fresh == ["bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"]
    assert told.endswith("weights: bbox_head.retina_cls.weight, bbox_head.retina_cls.bias")
    fit, told = check(check_partial, two_stage(masks=True, classes=5), state_of(two_stage()))
    assert "pretrained weights: roi_head.bbox_head 4 of 8, roi_head.mask_head 6 of 6" in told
    assert fit.left_out == []


def test_a_backbone_or_a_neck_and_heads_are_a_start() -> None:
    state = state_of(retinanet())
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    fit, told = check(check_partial, two_stage(), backbone)
    assert fit.covers("backbone")
    assert "start from their initial or pretrained weights: neck 16 of 16, rpn_head 6 of 6" in told
    rest = {key: value for key, value in state.items() if key not in backbone}
    fit, _ = check(check_partial, retinanet(), rest)
    assert not fit.covers("backbone")
    assert fit.covers("neck")
    assert fit.loaded == 24


def test_half_a_backbone_is_another_one() -> None:
    """The blocks that two depths share would be mixed with fresh or pretrained ones, or lack what follows them."""
    fit, told = check(check_partial, resnet_segmentor(), state_of(resnet_segmentor(depth=34)))
    assert not any(fit.covers(part) for part in ("", "backbone"))
    fit, told = check(check_partial, resnet_segmentor(depth=34), state_of(resnet_segmentor()))
    assert {name.partition(".")[0] for name in fit.left_out} == {"backbone"}
    assert len(fit.left_out) > 50
    assert f"{len(fit.left_out)} fit and are left out, of parts that differ (backbone {len(fit.left_out)})" in told
    assert not any(name.startswith("backbone") for name in fit.learned if name not in fit.fresh)


@pytest.mark.parametrize("chance", [{}, {"bbox_head.retina_reg.bias": (36,)}, {"neck.fpn_convs.0.conv.bias": (16,)}])
def test_next_to_nothing_is_no_start(chance: dict[str, tuple[int, ...]]) -> None:
    state = {"layer1.weight": torch.ones(3), "fc.weight": torch.ones(2, 2)}
    state |= {key: torch.ones(shape) for key, shape in chance.items()}
    with pytest.raises(ValueError, match=r"load_from=x\.pth is no start for this RetinaNet: 0 of the .* a classifier"):
        check(check_partial, retinanet(), state)
