"""The tools for pretrained weights: crops are made as they should be, probes find what is there, pictures are drawn."""

from pathlib import Path

import numpy as np
import torch
from lab.real_weights.command import main, spread
from lab.real_weights.crops import PHOTOGRAPHS, cut_crops
from lab.real_weights.package import CHANNELS, MODEL, find_checkpoint
from lab.real_weights.picture import draw
from lab.real_weights.probe import PROBES, accuracies, standardised
from lab.shapes.photographs import load_photograph

from adapters import TimmAdapter
from adapters.files import read_json


def test_crops_are_the_same_each_time_and_their_light_tells_nothing() -> None:
    crops, again, others = (cut_crops(split, 2, 32) for split in ("train", "train", "test"))
    assert torch.equal(crops.images, again.images)
    assert not torch.equal(crops.images, others.images)
    assert crops.labels.tolist() == [label for label in range(len(PHOTOGRAPHS)) for _ in range(2)]
    means = crops.images.float().mean((1, 2))
    assert 85 < means.min() < means.max() < 170


def test_probes_find_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    noise = torch.randn(120, 8, generator=generator)
    told = noise.clone()
    told[:, :3] += 9 * torch.nn.functional.one_hot(labels)
    features = {"told": told, "noise": noise}
    train, test = ({name: rows[half] for name, rows in features.items()} for half in (slice(60), slice(60, None)))
    found = accuracies(train, test, (labels[:60], labels[60:]))
    assert min(found["told"].values()) > 0.9
    assert max(found["noise"].values()) < 0.6
    assert set(found["told"]) == set(PROBES)


def test_a_feature_that_never_varies_does_no_harm() -> None:
    train, test = standardised(torch.ones(4, 2), torch.ones(3, 2))
    assert torch.isfinite(train).all()
    assert torch.equal(test, torch.zeros(3, 2))


def test_the_tool_finds_pretrained_features_better_than_random_ones(tmp_path: Path) -> None:
    arguments = ["--crops", "6", "3", "--side", "48", "--seeds", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    results = read_json(tmp_path / "results.json")["results"]
    pretrained, random = results["pretrained"]["embedding"], results["random 0"]["embedding"]
    assert pretrained["linear"] > random["linear"] + 0.3
    assert pretrained["k-NN"] > random["k-NN"] + 0.3
    assert "| embedding | " in (tmp_path / "results.md").read_text()
    assert main(arguments) == 0  # from what is kept


def test_mean_and_spread() -> None:
    assert spread([0.1, 0.2, 0.3]) == "0.200 ± 0.100"


def test_the_picture_has_a_row_for_each_photograph() -> None:
    photograph = load_photograph("coffee.png")
    one, two = (draw([photograph] * count, str(find_checkpoint()), (64, 96)) for count in (1, 2))
    assert one.width == two.width
    assert two.height > one.height
    assert len(np.unique(np.asarray(one.convert("L")))) > 100


def test_the_channels_are_the_models() -> None:
    assert tuple(level.channels for level in TimmAdapter(MODEL).levels) == CHANNELS
