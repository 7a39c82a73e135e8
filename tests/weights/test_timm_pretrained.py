"""The weights of timm's tags; nothing here leaves this machine."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_checkpoints import SVT, TWINS, assert_holds, load_twins, twins

import adapters


def test_timms_own_weights(hub: list[str]) -> None:
    assert_holds(load_twins("timm"), twins().state_dict())
    assert hub == ["timm/twins_svt_small.in1k/model.safetensors"]


def test_a_tag_in_the_name_decides(hub: list[str]) -> None:
    load_twins("timm", model_name="twins_svt_small.in1k")
    assert hub == ["timm/twins_svt_small.in1k/model.safetensors"]


@pytest.mark.parametrize("channels", [1, 4, 8])
@pytest.mark.usefixtures("hub")
def test_timms_own_weights_for_other_channels(channels: int) -> None:
    adapter = load_twins("timm", in_channels=channels)
    reference = timm.create_model(SVT, pretrained=True, in_chans=channels, **TWINS)
    assert_holds(adapter, reference.state_dict())
    assert adapter.trunk.patch_embeds[0].proj.weight.shape[1] == channels


@pytest.mark.parametrize("name", ["timm", "hf-hub:somebody/twins"])
def test_a_hub_that_does_not_answer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(**_: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match=r"ConnectionError: no route to host\).*(local file|path of the file)"):
        load_twins(name)


@pytest.mark.usefixtures("hub")
def test_what_timm_would_leave_at_random_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm warns and goes on where it cannot adapt a first convolution."""

    def refuse(*_: Any, **__: Any) -> torch.Tensor:
        raise NotImplementedError

    monkeypatch.setattr(timm.models._builder, "adapt_input_conv", refuse)
    with pytest.raises(ValueError, match=r"missing +patch_embeds\.0\.proj\.weight"):
        load_twins("timm", in_channels=5)


def test_a_model_for_which_timm_has_no_weights() -> None:
    with pytest.raises(
        ValueError, match=r"could not load the weights of swinv2_cr_tiny_224 \(RuntimeError: No pretrained"
    ):
        adapters.create_adapter("swinv2_cr_tiny_224", weights="timm", trunk={"depths": (1, 1, 1, 1)})
