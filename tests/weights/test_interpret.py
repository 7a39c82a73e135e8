"""Old and foreign names, through timm's own filter; tables of a size of their own."""

import re
from pathlib import Path

import pytest
import torch
from small_checkpoints import StateDict, assert_holds, below, save, timm_model
from zoo import CONVIT, SWIN_CR, TOKENS

import adapters


def test_old_swinv2_cr_checkpoints(tmp_path: Path, logged: list[str]) -> None:
    model = timm_model("swinv2_cr_tiny_224", SWIN_CR)
    old: StateDict = {}
    for key, tensor in model.state_dict().items():
        # The filter's inverse: logit_scale = log(1 / tau).
        value = torch.exp(-tensor) if key.endswith("logit_scale") else tensor
        old[key.replace("logit_scale", "tau").replace("head.fc.", "head.")] = value
    old["stages.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    old["stages.0.blocks.1.attn.relative_coordinates_log"] = torch.zeros(49 * 49, 2)
    path = save({"state_dict": old}, tmp_path / "a.pth")
    adapter = adapters.create_adapter("swinv2_cr_tiny_224", weights=path, trunk=SWIN_CR)
    for key, tensor in adapter.trunk.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[key])
    assert "timm's names below 'state_dict.', through timm's filter" in logged[0]
    assert "left out 2 (tables of a size of their own, rebuilt: stages.0.blocks.1.attn_mask" in logged[0]


def test_old_convit_tables_are_rebuilt(tmp_path: Path, logged: list[str]) -> None:
    model = timm_model("convit_tiny", CONVIT)
    state = {**model.state_dict(), "blocks.0.attn.rel_indices": torch.zeros(1, 196, 196, 3)}
    adapter = adapters.create_adapter("convit_tiny", weights=save(state, tmp_path / "a.pth"), trunk=CONVIT)
    assert_holds(adapter, state)
    assert "(tables of a size of their own, rebuilt: blocks.0.attn.rel_indices)" in logged[0]


def test_the_authors_convnext_and_deit3_names(tmp_path: Path) -> None:
    """Names that only timm's filter knows, the second one bound to an option by the model's builder."""
    trunk = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    model = timm_model("convnext_atto", trunk)
    authors: StateDict = {}
    for key, tensor in model.state_dict().items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", key)
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        # timm's atto has 1 x 1 convolutions where the authors have linear layers.
        authors[name] = tensor.flatten(1) if "pwconv" in name and tensor.ndim == 4 else tensor
    stale = {key: tensor + 1 for key, tensor in authors.items()}
    for contents in ({"model": authors}, {"model": below(authors, "encoder.")}, {"model": stale, "model_ema": authors}):
        path = save(contents, tmp_path / "a.pth")
        assert_holds(adapters.create_adapter("convnext_atto", weights=path, trunk=trunk), model.state_dict())
    path = save({"model": authors, "state_dict": stale}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"2 backbones that fit equally well, below '(model|state_dict)\.'"):
        adapters.create_adapter("convnext_atto", weights=path, trunk=trunk)
    cfg = {"type": "Pretrained", "checkpoint": path, "prefix": "model"}
    assert_holds(adapters.create_adapter("convnext_atto", init_cfg=cfg, trunk=trunk), model.state_dict())

    deit = timm_model("deit3_small_patch16_224", TOKENS)
    authors = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): tensor for key, tensor in deit.state_dict().items()}
    assert any("gamma_1" in key for key in authors)
    path = save({"model": authors}, tmp_path / "b.pth")
    assert_holds(adapters.create_adapter("deit3_small_patch16_224", weights=path, trunk=TOKENS), deit.state_dict())


def test_a_filter_is_found_where_it_has_another_name(tmp_path: Path) -> None:
    trunk = {"block_config": (2, 2, 2, 2), "growth_rate": 8}
    model = timm_model("densenet121", trunk)
    torchvisions = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): tensor
        for key, tensor in model.state_dict().items()
    }
    assert torchvisions.keys() != model.state_dict().keys()
    path = save(torchvisions, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter("densenet121", weights=path, trunk=trunk), model.state_dict())
