"""Pairing a checkpoint's tensors with an adapter's: everything for which a checkpoint is refused, and what is not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import PCPVT, SVT, TWINS, StateDict, assert_holds, below, load_twins, save, timm_model, twins
from small_checkpoints import with_norms as dense
from torch import nn
from zoo import SWIN_CR

import adapters

MODEL = twins().state_dict()


def changed(**tensors: Any) -> StateDict:
    """The small Twins' state dict with other tensors under some names (``__`` for a dot); None takes one away."""
    state = {**MODEL, **{key.replace("__", "."): tensor for key, tensor in tensors.items()}}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


# Refused: missing, unexpected, mis-shaped, not finite. The classifier and pruned layers do not count.


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(blocks__0__0__norm1__weight=None), r"missing +blocks\.0\.0\.norm1\.weight +nothing like it"),
        (
            changed(blocks__0__0__norm1__weight=None, blocks__0__0__norm1__wieght=torch.ones(8)),
            r"(?s)unexpected +blocks\.0\.0\.norm1\.wieght +nearest: blocks\.0\.0\.norm1\.weight"
            r".*missing +blocks\.0\.0\.norm1\.weight +nearest: blocks\.0\.0\.norm1\.wieght",
        ),
        (
            changed(blocks__0__0__norm1__weight=torch.ones(9)),
            r"shape +trunk\.blocks\.0\.0\.norm1\.weight +\(9,\) in the checkpoint, \(8,\) in the model",
        ),
        (changed(blocks__0__0__norm1__weight=torch.full((8,), torch.nan)), r"norm1\.weight +holds NaN or infinity"),
        (changed(blocks__0__0__norm1__weight=torch.full((8,), torch.inf)), r"norm1\.weight +holds NaN or infinity"),
        (changed(blocks__0__0__norm1__weight=torch.ones(8, dtype=torch.int8)), r"torch\.int8 in the checkpoint"),
        (
            changed(blocks__0__0__norm1__weight=torch.ones(8).to(torch.float8_e4m3fn)),
            r"norm1\.weight +is torch\.float8",
        ),
        (changed(blocks__0__0__norm1__weight=torch.ones(8, device="meta")), r"norm1\.weight +is on the meta device"),
        (
            {key: tensor.to("meta") for key, tensor in MODEL.items()},
            r"122 problems, .*\n +values +.*on the meta device",
        ),
        (changed(more__weight=torch.ones(8)), r"unexpected +more\.weight"),
        ({key: torch.full_like(tensor, torch.nan) for key, tensor in MODEL.items()}, "122 problems, 0 of 122"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path: Path, state: StateDict, message: str) -> None:
    adapter = adapters.TimmAdapter(SVT, weights=save(state, tmp_path / "a.pth"), trunk=TWINS)
    before = {key: tensor.clone() for key, tensor in adapter.trunk.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        adapter.init_weights()
    assert "a.pth' does not fit twins_svt_small: " in str(caught.value)
    assert_holds(adapter, before)


@pytest.mark.parametrize(
    "state",
    [
        changed(head__weight=None, head__bias=None, norm__weight=None, norm__bias=None),
        changed(head__weight=torch.ones(21, 32), head__bias=torch.ones(21)),
        changed(head__weight=torch.full((1000, 32), torch.nan)),
    ],
)
def test_the_classifier_does_not_matter(tmp_path: Path, state: StateDict) -> None:
    assert_holds(load_twins(save(state, tmp_path / "a.pth")), MODEL)


def test_layers_above_the_last_map_do_not_matter(tmp_path: Path, logged: list[str]) -> None:
    adapter = load_twins(save(MODEL, tmp_path / "a.pth"), out_indices=(0, 1))
    assert_holds(adapter, MODEL)
    assert "(not needed for these maps: patch_embeds.2.proj.weight, patch_embeds.2.proj.bias, ...)" in logged[0]
    whole = adapters.TimmAdapter(SVT, weights=save(adapter.state_dict(), tmp_path / "b.pth"), trunk=TWINS)
    with pytest.raises(ValueError, match=r"missing +patch_embeds\.2\.proj\.weight"):
        whole.init_weights()


# Norms after the stages.


def test_norms_after_the_stages_need_a_place(tmp_path: Path) -> None:
    path = save(dense(MODEL), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"stage_norms\.0\.weight +a norm after each stage: .* with stage_norm=True"):
        load_twins(path)
    adapter = load_twins(path, stage_norm=True)
    norms = dense({})
    assert len(norms) == 8
    for key, tensor in norms.items():
        assert torch.equal(adapter.state_dict()[key.replace("norm_list", "stage_norms")], tensor)
    partial = {key: tensor for key, tensor in dense(MODEL).items() if key != "norm_list.2.bias"}
    with pytest.raises(ValueError, match=r"1 problem,.*\n +missing +stage_norms\.2\.bias"):
        load_twins(save(partial, tmp_path / "b.pth"), stage_norm=True)


def test_a_dense_model_starts_from_a_classifier(tmp_path: Path, logged: list[str]) -> None:
    """That is how the dense models of the paper were trained."""
    adapter = load_twins(save(MODEL, tmp_path / "a.pth"), stage_norm=True)
    assert_holds(adapter, MODEL)
    assert "; 8 of stage_norms.* start at scale 1 and shift 0, as it holds none" in logged[0]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in adapter.stage_norms)


def test_norms_of_stages_that_are_not_asked_for(tmp_path: Path) -> None:
    path = save(dense(MODEL), tmp_path / "a.pth")
    adapter = load_twins(path, stage_norm=True, out_indices=(0, 1))
    assert torch.equal(adapter.stage_norms[1].bias, dense({})["norm_list.1.bias"])


def test_a_checkpoint_of_the_other_twins(tmp_path: Path) -> None:
    path = save(twins(PCPVT).state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"unexpected +blocks\.0\.0\.attn\.q\.weight +nearest: blocks\.0\.0\.attn\.qkv"
    ):
        load_twins(path)


def test_batch_norms_need_their_statistics(tmp_path: Path) -> None:
    trunk = {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)}
    state = timm_model("resnet18", trunk).state_dict()
    counted = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    adapter = adapters.create_adapter("resnet18", weights=save(counted, tmp_path / "a.pth"), trunk=trunk)
    assert all(
        torch.equal(module.running_mean, state[f"{name}.running_mean"])
        for name, module in adapter.trunk.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    )
    del counted["bn1.running_var"]
    with pytest.raises(ValueError, match=r"missing +bn1\.running_var"):
        adapters.create_adapter("resnet18", weights=save(counted, tmp_path / "b.pth"), trunk=trunk)


def test_the_epsilon_that_earlier_versions_saved_is_left_out(tmp_path: Path, logged: list[str]) -> None:
    state = {
        **below(load_twins(None, stage_norm=True).state_dict(), "backbone."),
        "backbone.norm_eps": torch.tensor(1e-5),
    }
    load_twins(save({"state_dict": state}, tmp_path / "a.pth"), stage_norm=True)
    assert "left out 1 (of an earlier version: norm_eps)" in logged[0]


def test_infinite_tables_are_not_weights(tmp_path: Path) -> None:
    """Masks of attention hold minus infinity; the model computes them from its size."""
    model = timm_model("swinv2_cr_tiny_224", SWIN_CR).state_dict()
    masks = {f"stages.{stage}.blocks.1.attn_mask": torch.full((4, 49, 49), -torch.inf) for stage in range(3)}
    path = save({**model, **masks}, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter("swinv2_cr_tiny_224", weights=path, trunk=SWIN_CR), model)
