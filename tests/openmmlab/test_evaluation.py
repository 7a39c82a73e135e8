"""The options of a test: what they make of a config, and bad values (``tests/commands/test_test.py`` runs them)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from adapters.openmmlab.evaluation import EvaluationOptions, PaintingHook, augment_tests, set_outputs

PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64)),
    dict(type="PackDetInputs", meta_keys=("img_id", "ori_shape")),
]


def config(scope: str = "mmdet", evaluator: Any = None, **more: Any) -> Config:
    dataset = dict(type="RepeatDataset", times=1, dataset=dict(type="CocoDataset", pipeline=PIPELINE))
    settings = dict(default_scope=scope, model=dict(type="RetinaNet"), test_dataloader=dict(dataset=dataset))
    return Config({**settings, "test_evaluator": evaluator or dict(type="CocoMetric", metric="bbox"), **more})


def test_nothing_is_asked_for() -> None:
    cfg = config()
    assert set_outputs(cfg, EvaluationOptions()) == []
    assert cfg.to_dict() == config().to_dict()


@pytest.mark.parametrize(
    "evaluator",
    [
        dict(type="CocoMetric"),
        [dict(type="CocoMetric")],
        dict(type="Evaluator", metrics=[dict(type="CocoMetric")]),
    ],
    ids=["one", "several", "evaluator"],
)
def test_a_pickle_is_one_more_metric(evaluator: Any, tmp_path: Path) -> None:
    cfg = config(evaluator=evaluator)
    assert set_outputs(cfg, EvaluationOptions(out=str(tmp_path / "x.pkl"))) == [f"predictions: {tmp_path / 'x.pkl'}"]
    found = cfg.test_evaluator
    metrics = found["metrics"] if isinstance(found, dict) else found
    assert [metric["type"] for metric in metrics] == ["CocoMetric", "DumpDetResults"]
    assert metrics[1]["out_file_path"] == str(tmp_path / "x.pkl")


def test_label_maps_are_written_by_the_metric_of_the_config(tmp_path: Path) -> None:
    cfg = config("mmseg", [dict(type="Other"), dict(type="mmseg.CityscapesMetric")])
    set_outputs(cfg, EvaluationOptions(out=str(tmp_path)))
    assert cfg.test_evaluator[1] == dict(type="mmseg.CityscapesMetric", output_dir=str(tmp_path), keep_results=True)
    cfg = config("mmseg", dict(type="IoUMetric"))
    set_outputs(cfg, EvaluationOptions(out=str(tmp_path)))
    assert cfg.test_evaluator == dict(type="IoUMetric", output_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("scope", "options", "message"),
    [
        ("mmdet", dict(out="x.json"), r"--out x\.json: .*ending in \.pkl or \.pickle"),
        ("mmdet", dict(out="folder.pkl"), r"--out folder\.pkl: .* are a file"),
        ("mmseg", dict(out="x.pkl"), r"--out x\.pkl: .* label maps, so name a folder"),
        ("mmseg", dict(out="file"), r"--out file: .* label maps, so name a folder"),
        (
            "mmseg",
            dict(out="maps"),
            r"--out maps: label maps are written by IoUMetric or .*test_evaluator has CocoMetric",
        ),
        ("mmdet", dict(show_dir="file"), r"--show-dir file is a file; name a folder"),
    ],
)
def test_bad_values(scope: str, options: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.pkl").mkdir()
    with pytest.raises(ValueError, match=message):
        set_outputs(config(scope), EvaluationOptions(**options))


def test_painting_keeps_the_settings_of_the_config(tmp_path: Path) -> None:
    hooks = dict(visualization=dict(type="DetVisualizationHook", score_thr=0.7))
    cfg = config(default_hooks=hooks, custom_hooks=[dict(type="Mine")])
    set_outputs(cfg, EvaluationOptions(show_dir=str(tmp_path)))
    assert cfg.custom_hooks == [dict(type="Mine"), dict(type="PaintingHook", out_dir=str(tmp_path), score_thr=0.7)]


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    painted: list[Any] = []
    visualizer = SimpleNamespace(add_datasample=lambda name, image, **options: painted.append((name, image, options)))
    runner = SimpleNamespace(visualizer=visualizer, cfg=Config(dict(default_scope="mmdet")))
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    samples = []
    for folder in ("a", "b"):
        path = tmp_path / folder / "x.png"
        path.parent.mkdir()
        Image.fromarray(red).save(path)
        samples.append(SimpleNamespace(img_path=str(path)))
    PaintingHook(str(tmp_path / "out"), score_thr=0.6).after_test_iter(runner, 0, None, samples)
    assert [options["out_file"] for _, _, options in painted] == [
        str(tmp_path / "out/x.png"),
        str(tmp_path / "out/b/x.png"),
    ]
    assert all(np.array_equal(image, red) and options["pred_score_thr"] == 0.6 for _, image, options in painted)
    (tmp_path / "bands.npy").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"--show-dir: .*bands\.npy is no image that can be painted on"):
        PaintingHook("out").after_test_iter(runner, 0, None, [SimpleNamespace(img_path=str(tmp_path / "bands.npy"))])


def test_the_views_of_a_config_are_its_own() -> None:
    views = [dict(type="LoadImageFromFile"), dict(type="TestTimeAug", transforms=[[dict(type="Mine")]])]
    cfg = config(tta_model=dict(type="MyTTAModel", weight=2), tta_pipeline=views)
    assert augment_tests(cfg) == []
    assert cfg.test_dataloader.dataset.dataset.pipeline == views
    assert cfg.model == dict(type="MyTTAModel", weight=2, module=dict(type="RetinaNet"))


def test_views_where_the_config_has_none() -> None:
    cfg = config()
    assert [note.split(":")[0] for note in augment_tests(cfg)] == [
        "the config has no tta_model",
        "the config has no tta_pipeline",
    ]
    assert cfg.model.type == "DetTTAModel"
    *loading, views = cfg.test_dataloader.dataset.dataset.pipeline
    assert loading == PIPELINE[:2]
    flips, (packing,) = views.transforms
    assert [(flip.type, flip.prob) for flip in flips] == [("RandomFlip", 0.0), ("RandomFlip", 1.0)]
    assert packing.meta_keys == ("img_id", "ori_shape", "flip", "flip_direction")
    segmentor = config("mmseg")
    augment_tests(segmentor)
    assert segmentor.model == dict(type="SegTTAModel", module=dict(type="RetinaNet"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(evaluator=dict(type="CocoMetric", metric=["bbox", "segm"])), r"CocoMetric measures masks"),
        (dict(evaluator=dict(type="CocoPanopticMetric")), r"CocoPanopticMetric measures masks"),
        (dict(model=dict(type="MaskRCNN", roi_head=dict(type="R", mask_head=dict(type="M")))), r"R predicts masks"),
        (dict(model=dict(type="SOLO", mask_head=dict(type="M"))), r"SOLO predicts masks"),
    ],
)
def test_masks_are_not_merged(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"--tta: mmdet merges boxes only, and .*{message}"):
        augment_tests(config(**more))


def test_a_pipeline_that_packs_nothing() -> None:
    cfg = config()
    cfg.test_dataloader.dataset.dataset.pipeline = PIPELINE[:2]
    with pytest.raises(ValueError, match=r"--tta: the test pipeline ends in Resize.*tta_pipeline"):
        augment_tests(cfg)
