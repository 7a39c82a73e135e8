"""Checkpoints of timm's ``features_only`` models, as those who wrap them save them."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_checkpoints import below, save
from zoo import SWIN_CR, TOKENS, TWINS, image, randomise

import adapters
from adapters.weights.projects.features_only import PROJECTS
from adapters.weights.projects.naming import Reader

SWIN = {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}

#: Models that timm rebuilds for their maps, with and without longer names, and one that it only wraps.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "swinv2_cr_tiny_ns_224": ("backbone.timm_model.", SWIN_CR),
    "swin_tiny_patch4_window7_224": ("encoder.model.", SWIN),
    "convnext_atto": ("_backbone.", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "resnet18": ("model.backbone.model._backbone.", {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)}),
    "mobilenetv3_small_050": ("encoder.model.", {}),
    "vit_small_patch16_224": ("", TOKENS),
    "twins_svt_small": ("backbone.timm_model.", TWINS),
}


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_of_features_only(tmp_path: Path, name: str) -> None:
    prefix, trunk = MODELS[name]
    wrapped = randomise(timm.create_model(name, features_only=True, **trunk)).eval()
    path = save({"state_dict": below(wrapped.state_dict(), prefix)}, tmp_path / "a.pth")
    adapter = adapters.create_adapter(name, weights=path, trunk=trunk).eval()
    batch = image(224, 224, batch=1)
    with torch.no_grad():
        theirs, ours = wrapped(batch), adapter(batch)
    for one, other in zip(reversed(ours), reversed(theirs), strict=False):  # timm's have a stride of 2 more, or fewer.
        nchw = other if other.shape == one.shape else other.permute(0, 3, 1, 2)
        torch.testing.assert_close(one, nchw, rtol=1e-4, atol=1e-4)


def test_a_name_that_two_tensors_could_have_stays_unknown() -> None:
    reader = Reader(PROJECTS[0], frozenset({"stages.0.norm", "stages_0.norm", "stages.1.norm"}))
    assert reader.rename("stages_0_norm") == ("stages_0_norm", "")
    assert reader.rename("stages_1.norm") == ("stages.1.norm", "")
