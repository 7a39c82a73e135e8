"""timm's filter: the names and prefixes that it looks for, and the values that it must not throw away unseen."""

from pathlib import Path

import pytest
import torch
from small_checkpoints import StateDict, assert_holds, below, save, timm_model
from zoo import TOKENS

import adapters
from adapters.weights.filtered import run_filter
from adapters.weights.timm_pretrained import catch_timm_loading

WIDTH, DEPTH = TOKENS["embed_dim"], TOKENS["depth"]
DINOV3, BIASED = "vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"
SAM, RADIO = "samvit_base_patch16", "vit_base_patch16_radio_v3"
SMALL_SAM = {"depth": 2, "embed_dim": 96, "num_heads": 2, "global_attn_indexes": (1,)}


def metas(state: StateDict, key_bias: float = 0.0) -> StateDict:
    """Meta's names of DINOv3; biases of queries and values are those of timm's variant that has some, or zero."""
    made: StateDict = {"mask_token": torch.ones(1, WIDTH), "rope_embed.periods": torch.ones(3)}
    for key, tensor in state.items():
        name = key.replace("gamma_", "ls").replace("reg_token", "storage_tokens")
        if not key.endswith("_bias"):
            made[f"{name}.gamma" if "gamma_" in key else name] = tensor
    for number in range(DEPTH):
        zero = torch.zeros(WIDTH)
        ends = [state.get(f"blocks.{number}.attn.{part}_bias", zero) for part in "qv"]
        made[f"blocks.{number}.attn.qkv.bias"] = torch.cat([ends[0], torch.full((WIDTH,), key_bias), ends[1]])
        made[f"blocks.{number}.attn.qkv.bias_mask"] = torch.full((3 * WIDTH,), torch.nan)
    return made


@pytest.mark.parametrize("name", [DINOV3, BIASED])
def test_dinov3_as_published(tmp_path: Path, logged: list[str], name: str) -> None:
    state = timm_model(name, TOKENS).state_dict()
    path = save({"teacher": below(metas(state), "backbone.")}, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(name, weights=path, trunk=TOKENS), state)
    assert ("left out 4 (biases of zero: blocks.0.attn.qkv.bias" in logged[0]) == (name == DINOV3)
    assert "left out 5 (tables of a size of their own, rebuilt: " in logged[0]


def test_biases_that_the_filter_throws_away(tmp_path: Path) -> None:
    state = metas(timm_model(BIASED, TOKENS).state_dict())
    with pytest.raises(ValueError, match=rf"4 problems,.*\n +lost +blocks\.0\.attn\.qkv\.bias .*: {BIASED}\n"):
        adapters.create_adapter(DINOV3, weights=save(state, tmp_path / "a.pth"), trunk=TOKENS)


def test_a_third_of_a_tensor_that_the_filter_throws_away(tmp_path: Path) -> None:
    """timm takes the biases of keys for zero; a mask in the file may make them so."""
    model = timm_model(BIASED, TOKENS).state_dict()
    state = metas(model, key_bias=0.5)
    with pytest.raises(ValueError, match=r"4 problems,.*\n +lost +blocks\.0\.attn\.qkv\.bias"):
        adapters.create_adapter(BIASED, weights=save(state, tmp_path / "a.pth"), trunk=TOKENS)
    mask = torch.cat([torch.ones(WIDTH), torch.zeros(WIDTH), torch.ones(WIDTH)])
    state |= {f"blocks.{number}.attn.qkv.bias_mask": mask for number in range(DEPTH)}
    path = save(state, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(BIASED, weights=path, trunk=TOKENS), model)


def test_values_are_followed_through_the_filter() -> None:
    """Copied, renamed, reshaped, cut in three, added to another, or dropped."""
    info = catch_timm_loading(BIASED, 3, TOKENS)
    filtered = run_filter(metas(timm_model(BIASED, TOKENS).state_dict(), key_bias=2.0), info, None)
    assert filtered is not None
    dropped = {f"blocks.{number}.attn.qkv.{kind}" for number in range(DEPTH) for kind in ("bias", "bias_mask")}
    assert set(filtered.lost) == dropped | {"mask_token", "rope_embed.periods"}
    assert filtered.lost["blocks.1.attn.qkv.bias"].unique_consecutive().tolist() == [0, 2, 0]
    assert "blocks.1.attn.qkv.bias" in filtered.kept
    assert "mask_token" not in filtered.kept

    name = "vit_small_patch14_reg4_dinov2"
    state = timm_model(name, TOKENS).state_dict()
    state["register_tokens"] = state.pop("reg_token")
    state |= {"pos_embed": torch.ones(1, 1370, WIDTH), "mask_token": torch.ones(1, WIDTH)}
    filtered = run_filter(state, catch_timm_loading(name, 3, TOKENS), None)
    assert filtered is not None
    assert set(filtered.lost) == {"mask_token"}


def sams(state: StateDict) -> StateDict:
    return {key.replace("mlp.fc", "mlp.lin"): tensor for key, tensor in state.items() if not key.startswith("head.")}


@pytest.mark.parametrize("prefix", ["image_encoder.", "", "sam_model.image_encoder.", "state_dict.backbone."])
def test_sam(tmp_path: Path, logged: list[str], prefix: str) -> None:
    state = timm_model(SAM, SMALL_SAM).state_dict()
    beside = {"prompt_encoder.more.weight": torch.ones(3)} if prefix else {}
    path = save({**below(sams(state), prefix), **beside}, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(SAM, weights=path, trunk=SMALL_SAM), state)
    assert not prefix or "left out 1 elsewhere in the file (prompt_encoder.*)" in logged[0]
    inside = {**below(sams(state), prefix), f"{prefix}blocks.0.adapter.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"1 problem,.*\n +unexpected +blocks\.0\.adapter\.weight"):
        adapters.create_adapter(SAM, weights=save(inside, tmp_path / "a.pth"), trunk=SMALL_SAM)


@pytest.mark.parametrize("prefix", ["radio_model.model.", "", "state_dict.vision.radio_model.model."])
def test_radio(tmp_path: Path, prefix: str) -> None:
    state = timm_model(RADIO, TOKENS).state_dict()
    state["patch_embed.proj.bias"] = torch.zeros(WIDTH)
    radios = {key: tensor for key, tensor in state.items() if key.startswith("blocks.")}
    radios["patch_generator.embedder.weight"] = state["patch_embed.proj.weight"].flatten(1)
    radios["patch_generator.pos_embed"] = state["pos_embed"]
    radios["patch_generator.cls_token.token"] = torch.cat([state["cls_token"][0], state["reg_token"][0]])
    beside = {"radio_model.input_conditioner.norm_mean": torch.ones(3, 1, 1)} if prefix else {}
    path = save({**below(radios, prefix), **beside}, tmp_path / "a.pth")
    adapter = adapters.create_adapter(RADIO, weights=path, trunk=TOKENS)
    for key, tensor in adapter.trunk.state_dict().items():
        torch.testing.assert_close(tensor, state[key])
