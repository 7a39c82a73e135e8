"""What an exported file says of itself, read from configs of several kinds."""

from typing import Any

import pytest
import small_exports
from mmengine.config import Config

from adapters.openmmlab.export.metadata import describe_file, describe_images
from adapters.openmmlab.export.whole import as_graphs


def prepared(name: str, pipeline: list[dict[str, Any]] | None = None, **preprocessor: Any) -> tuple[Config, Any]:
    makers = {**small_exports.DENSE, **small_exports.STAGES, **small_exports.SEGMENTORS}
    cfg = small_exports.config(makers[name])
    cfg.model.data_preprocessor.update(preprocessor)
    cfg.test_dataloader = dict(dataset=dict(dataset=dict(type="CocoDataset", pipeline=pipeline or [])))
    return cfg, small_exports.build(cfg)


def test_the_pipeline_of_rtmdet() -> None:
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(640, 480), keep_ratio=True),
        dict(type="Pad", size=(640, 480), pad_val=dict(img=(103, 116, 123))),
        dict(type="CLAHE"),
        dict(type="PackDetInputs"),
    ]
    images, notes = describe_images(*prepared("FCOS", pipeline, bgr_to_rgb=True))
    assert images["channel_order"] == "RGB"
    assert images["test"] == [
        {"type": "resize", "scale": [640, 480], "keep_ratio": True},
        {"type": "pad", "size": [480, 640], "value": [123, 116, 103]},
    ]
    assert notes == ["the test pipeline's CLAHE is not part of the file: do it before"]


def test_the_padding_of_mmseg() -> None:
    images, _ = describe_images(*prepared("UPerNet"))
    assert (images["size_divisor"], images["padded_size"]) == (1, None)
    images, _ = describe_images(*prepared("UPerNet", test_cfg=dict(size_divisor=32)))
    assert (images["size_divisor"], images["padded_size"]) == (32, None)
    images, _ = describe_images(*prepared("UPerNet", test_cfg=dict(size=(96, 128))))
    assert images["padded_size"] == [96, 128]


def test_the_names_of_the_classes() -> None:
    cfg, model = prepared("FCOS")
    own, whole = as_graphs(model)
    assert describe_file(cfg, own, whole, {})[0]["classes"][:2] == ["person", "bicycle"]
    assert describe_file(cfg, own, whole, {"classes": ("a", "b", "c")})[0]["classes"] == ["a", "b", "c"]
    cfg.test_dataloader = None
    metadata, notes = describe_file(cfg, own, whole, {})
    assert metadata["classes"] == []
    assert "neither the checkpoint nor the config names the classes" in notes[0]


def test_padding_that_a_graph_does_not_know_of() -> None:
    cfg, model = prepared("DINO", pad_size_divisor=32)
    with pytest.raises(ValueError, match=r"masks the padding.*model.data_preprocessor.pad_size_divisor=1"):
        describe_file(cfg, *as_graphs(model), {})
