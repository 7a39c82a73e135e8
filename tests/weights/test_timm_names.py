"""The words of timm's code: every name of its models is known, those of other projects are not."""

import pytest
import timm
import torch

from adapters.weights.timm_names import foreign_names

#: Models whose code names its parts in unusual ways: by formats, sums of strings, tuples of targets, other files.
UNUSUAL = ("densenet121", "dpn68", "hrnet_w18_small", "regnety_002", "repvgg_b0", "halonet26t", "res2net50_14w_8s")
ORDINARY = ("vit_tiny_patch16_224", "resnet18", "twins_svt_small", "swin_tiny_patch4_window7_224", "convnext_atto")
INHERITED = ("deit3_small_patch16_224", "sequencer2d_s", "inception_v4", "vit_small_patch16_dinov3", "mobilevit_xxs")


@pytest.mark.parametrize("model_name", [*UNUSUAL, *ORDINARY, *INHERITED])
def test_names_of_timms(model_name: str) -> None:
    with torch.device("meta"):
        names = list(timm.create_model(model_name).state_dict())
    assert foreign_names(names) == []
    for wrapper in ("backbone", "module", "model", "teacher", "student"):
        assert len(foreign_names([f"{wrapper}.{name}" for name in names])) == len(names)
