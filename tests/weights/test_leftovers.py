"""What training runs leave in a checkpoint: named and left out, where it has no part in the maps."""

from pathlib import Path

import pytest
import torch
from small_checkpoints import VIT, StateDict, assert_holds, save, timm_model, vit
from zoo import TOKENS

import adapters

WIDTH = TOKENS["embed_dim"]
MODEL = {key: tensor for key, tensor in vit().state_dict().items() if not key.startswith("head.")}


def ones(*names: str, shape: tuple[int, ...] = (WIDTH,)) -> StateDict:
    return {name: torch.ones(shape) for name in names}


def head(*names: str, classes: int = 10) -> StateDict:
    return ones(*names, shape=(classes, WIDTH))


LEFT_OUT = {
    "decoder": ones("decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder.0.bias"),
    "token of masked patches": ones("mask_token"),
    "norm that these maps do not have": ones("fc_norm.weight", "fc_norm.bias"),
    "a head": head(
        "lm_head.weight", "projector.0.weight", "head_dist.weight", "classifier.1.weight", "aux_head.fc.weight"
    ),
    "a head, by its shape": head("linear_probe.weight") | ones("linear_probe.bias", shape=(10,)),
    "state of a training": ones("optimizer.state.0.exp_avg", "lr_scheduler.x"),
    "tables of a size": ones("blocks.0.attn.relative_position_index", "rope.periods"),
    "biases of zero": {"blocks.0.attn.more.bias": torch.zeros(WIDTH)},
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_what_is_left_out_is_named(tmp_path: Path, logged: list[str], reason: str) -> None:
    left = LEFT_OUT[reason]
    path = save({"model": {**MODEL, **left}}, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(VIT, weights=path, trunk=TOKENS), MODEL)
    assert f"left out {len(left)} (" in logged[0]
    assert reason in logged[0]
    assert next(iter(left)) in logged[0]


@pytest.mark.parametrize(
    "more",
    [
        ones("blocks.0.adapter.down.weight"),
        ones("blocks.0.norm3.weight"),
        ones("blocks.1.attn.head_scale"),
        ones("prompt_embeddings", shape=(1, 5, WIDTH)),
        ones("reg_token", shape=(1, 4, WIDTH)),
        ones("norm_pre.weight"),
        ones("patch_projection.weight", shape=(10, WIDTH)),
        head("adapters.0.down.weight") | ones("adapters.0.up.weight", shape=(WIDTH, 10)),
        ones("square.weight", shape=(WIDTH, WIDTH)),
        ones("rel_pos_bias.relative_position_bias_table", shape=(10, 4)),
        {"blocks.0.attn.more.bias": torch.ones(WIDTH)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_may_work_on_the_maps_is_refused(tmp_path: Path, more: StateDict) -> None:
    path = save({**MODEL, **more}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"{len(more)} problems?,.*\n +unexpected +{next(iter(more))}"):
        adapters.create_adapter(VIT, weights=path, trunk=TOKENS)


def test_the_final_norm_is_another_one(tmp_path: Path) -> None:
    """A norm of averaged features does something else than one of tokens, where the maps are normed at all."""
    averaged = timm_model(VIT, TOKENS, global_pool="avg").state_dict()
    assert "fc_norm.weight" in averaged
    path = save(averaged, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(VIT, weights=path, trunk=TOKENS), averaged)
    with pytest.raises(ValueError, match=r"(?s)unexpected +fc_norm\.weight.*missing +norm\.weight"):
        adapters.create_adapter(VIT, weights=path, trunk=TOKENS, out_norm=True)
    gap = "vit_betwixt_patch16_rope_reg4_gap_256"
    state = timm_model(gap, TOKENS).state_dict()
    swapped = {key.replace("fc_norm", "norm"): tensor for key, tensor in state.items()}
    path = save(swapped, tmp_path / "b.pth")
    assert_holds(adapters.create_adapter(gap, weights=path, trunk=TOKENS), state)


def test_what_lies_elsewhere_is_named(tmp_path: Path, logged: list[str]) -> None:
    backbone = {f"model.backbone.{key}": tensor for key, tensor in MODEL.items()}
    beside = ones("model.neck.0.weight", "model.neck.1.weight", "model.scale", "loss.weight")
    path = save({"state_dict": {**backbone, **beside}, "optimizer": {"state": {0: torch.ones(1)}}}, tmp_path / "a.pth")
    adapters.create_adapter(VIT, weights=path, trunk=TOKENS)
    places = "state_dict.model.neck.*, state_dict.model.scale, state_dict.loss.*, optimizer.*"
    assert f"left out 5 elsewhere in the file ({places})" in logged[0]
