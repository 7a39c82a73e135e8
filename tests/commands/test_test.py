"""``dense-adapters test``: predictions, painted images, test-time augmentation, and checkpoints of other models."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from small_runs import DETECTION, SEGMENTATION, TRUNK
from zoo import randomise

from adapters.commands.test import main
from adapters.openmmlab.run import load_config

RECIPE = "adapters::retinanet_twins-svt-s_fpn_1x_coco"
BACKBONE = "test_convnext"


def test_a_checkpoint_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"there is no checkpoint 'nowhere\.pth'"):
        main([RECIPE, "nowhere.pth"])


def test_an_override_without_a_value() -> None:
    with pytest.raises(ValueError, match=r"takes KEY=VALUE, got 'model'"):
        main([RECIPE, "https://nowhere.example/x.pth", "--cfg-options", "model"])


def test_data_that_do_not_exist() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist .*test_dataloader\.dataset\.data_root"):
        main([RECIPE, "https://nowhere.example/x.pth", "--cfg-options", "test_dataloader.dataset.data_root=nowhere"])


def save_model(config: str, backbone: str | None = None) -> tuple[torch.nn.Module, Any]:
    """Save the randomised model of a config as ``whole.pth``; return it and the config's test data."""
    cfg, _ = load_config(config, backbone=backbone)
    torch.manual_seed(0)
    model = randomise(MODELS.build(cfg.model)).eval()
    torch.save({"state_dict": model.state_dict()}, "whole.pth")
    return model, DATASETS.build(cfg.test_dataloader.dataset)


@pytest.mark.slow
def test_another_models_checkpoint_is_refused_in_one_line(config: Any) -> None:
    path = config(DETECTION)
    torch.save(timm.create_model("twins_svt_small", **TRUNK).state_dict(), "classifier.pth")
    expected = (
        r"^classifier\.pth is no checkpoint of this RetinaNet: 0 of the model's 96 tensors fit, .* It seems to be a "
        r"classifier, .* `--cfg-options model\.backbone\.weights=classifier\.pth`\.$"
    )
    with pytest.raises(ValueError, match=expected):
        main([path, "classifier.pth"])
    assert not Path("work_dirs").exists()


@pytest.mark.slow
def test_boxes_in_a_pickle_and_painted(config: Any) -> None:
    path = config(DETECTION)
    model, data = save_model(path)
    main([path, "whole.pth", "--out", "out/boxes.pkl", "--show-dir", "painted", "--work-dir", "run"])
    saved = pickle.loads(Path("out/boxes.pkl").read_bytes())
    assert len(saved) == len(data) == 3
    for index, sample in enumerate(saved):
        with torch.no_grad():
            expected = model.test_step(pseudo_collate([data[index]]))[0].pred_instances
        torch.testing.assert_close(sample["pred_instances"]["scores"], expected.scores)
        torch.testing.assert_close(sample["pred_instances"]["bboxes"], expected.bboxes)
        painted = Image.open(Path("painted") / Path(sample["img_path"]).name)
        height, width = sample["ori_shape"]
        assert painted.size == (2 * width, height)  # the truth beside the predictions
    text = max(Path("run").glob("*/*.log")).read_text()
    assert "whole.pth: 96 of the model's 96 tensors are loaded" in text
    assert "predictions: " in text


@pytest.mark.slow
def test_label_maps_of_an_image_and_its_mirror_image(config: Any) -> None:
    path = config(SEGMENTATION)
    model, data = save_model(path, BACKBONE)
    main([path, "whole.pth", "--backbone", BACKBONE, "--tta", "--out", "maps", "--show-dir", "painted"])
    assert len(list(Path("painted").iterdir())) == 3
    for item in (data[index] for index in range(3)):
        batch = model.data_preprocessor(pseudo_collate([item]))
        with torch.no_grad():
            views = [model.encode_decode(view, [batch["data_samples"][0].metainfo])
                     for view in (batch["inputs"], batch["inputs"].flip(3))]  # fmt: skip
        merged = views[0].softmax(1) + views[1].flip(3).softmax(1)
        saved = np.asarray(Image.open(Path("maps") / f"{Path(item['data_samples'].img_path).stem}.png"))
        assert (saved == merged.argmax(1)[0].numpy()).mean() > 0.999
        assert (saved == views[0].argmax(1)[0].numpy()).mean() < 0.999


@pytest.mark.slow
def test_boxes_of_an_image_and_its_mirror_image(config: Any) -> None:
    path = config(DETECTION)
    save_model(path)
    for name, options in (("plain.pkl", []), ("both.pkl", ["--tta"])):
        main(
            [
                path,
                "whole.pth",
                "--out",
                name,
                "--work-dir",
                "run",
                *options,
                "--cfg-options",
                f"visualizer.name={name}",
            ]
        )
    plain, both = (pickle.loads(Path(name).read_bytes()) for name in ("plain.pkl", "both.pkl"))
    for one, two in zip(plain, both, strict=True):
        best = one["pred_instances"]["scores"].max()
        assert two["pred_instances"]["scores"].max() >= best - 1e-4
        alone, merged = (prediction["pred_instances"]["bboxes"] for prediction in (one, two))
        assert len(merged) >= len(alone)
        assert not torch.equal(merged, alone)  # of equal scores, some boxes are now those of the mirror image
