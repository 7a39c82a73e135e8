"""``dense-adapters test``: mistakes found before anything is built (``test_train.py`` tests a trained checkpoint)."""

import pytest

from adapters.commands.test import main

RECIPE = "adapters::retinanet_twins-svt-s_fpn_1x_coco"


def test_a_checkpoint_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"there is no checkpoint 'nowhere\.pth'"):
        main([RECIPE, "nowhere.pth"])


def test_an_override_without_a_value() -> None:
    with pytest.raises(ValueError, match=r"takes KEY=VALUE, got 'model'"):
        main([RECIPE, "https://nowhere.example/x.pth", "--cfg-options", "model"])


def test_data_that_do_not_exist() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist .*test_dataloader\.dataset\.data_root"):
        main([RECIPE, "https://nowhere.example/x.pth", "--cfg-options", "test_dataloader.dataset.data_root=nowhere"])
