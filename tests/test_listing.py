"""The models that serve as backbones, by pattern, and their levels without building them."""

import pytest

import adapters
from adapters import listing


def test_models_are_listed_by_pattern() -> None:
    assert adapters.list_models("twins_*") == [
        f"twins_{kind}_{size}" for kind in ("pcpvt", "svt") for size in ("base", "large", "small")
    ]
    both = adapters.list_models(["resnet18", "gmlp_*", "convit_*"])
    assert both == ["convit_base", "convit_small", "convit_tiny", "resnet18"]
    with pytest.raises(ValueError, match=r"no model of the pattern 'resnet_of_nobody'"):
        adapters.list_models("resnet_of_nobody")


def test_default_levels_come_without_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TimmAdapter", None)
    assert [level.stride for level in listing.default_levels("hrnet_w18_small.ms_in1k")] == [4, 8, 16, 32]
    with pytest.raises(ValueError, match="gmlp_s16_224 cannot serve"):
        listing.default_levels("gmlp_s16_224")


def test_a_model_without_a_record_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_records", dict)
    assert adapters.list_models("resnet18") == ["resnet18"]
