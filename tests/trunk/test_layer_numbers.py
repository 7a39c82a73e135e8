"""The layer of each parameter of a backbone, beside timm's own grouping."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from zoo import TOKENS, TWINS

import adapters
from adapters.trunk.layer_numbers import layer_numbers, trunk_layers

RATE = 0.5


def test_pruned_stages_do_not_count() -> None:
    """The distance is to the head, which stands after the last stage that is left."""
    whole = adapters.TimmAdapter("twins_svt_small", trunk=TWINS)
    pruned = adapters.TimmAdapter("twins_svt_small", trunk=TWINS, out_indices=(0, 1))
    for adapter, blocks in ((whole, 8), (pruned, 4)):
        numbers, head = layer_numbers(adapter)
        assert head == blocks + 1
        last = max(name for name in numbers if name.startswith("trunk.blocks."))
        assert numbers[last] == blocks
        assert numbers["trunk.patch_embeds.0.proj.weight"] == 0


def test_what_a_family_adds_goes_with_its_stage() -> None:
    adapter = adapters.TimmAdapter("twins_svt_small", trunk=TWINS, stage_norm=True)
    numbers, _ = layer_numbers(adapter)
    for stage in range(4):
        assert (
            numbers[f"stage_norms.{stage}.weight"] == numbers[f"trunk.blocks.{stage}.1.norm1.weight"] == 2 * stage + 2
        )
        assert numbers[f"trunk.pos_block.{stage}.proj.0.weight"] == 2 * stage + 1


def test_better_places_than_the_head() -> None:
    """A final norm by another name, rotary tables that all blocks share, and what timm's matchers do not know."""
    gap = adapters.TimmAdapter("vit_betwixt_patch16_rope_reg4_gap_256", trunk=TOKENS, out_norm=True)
    mixed = adapters.TimmAdapter("vit_small_patch16_rope_mixed_ape_224", trunk=TOKENS)
    assert layer_numbers(gap)[0]["trunk.fc_norm.weight"] == 4
    assert layer_numbers(mixed)[0]["trunk.rope.freqs"] == 4
    assert layer_numbers(gap)[0]["trunk.reg_token"] == 0
    clip = adapters.TimmAdapter("vit_base_patch16_clip_224", trunk=TOKENS)
    assert layer_numbers(clip)[0]["trunk.norm_pre.weight"] == 0
    numbers, head = layer_numbers(adapters.TimmAdapter("densenet121"))
    assert numbers["trunk.features.norm5.weight"] == max(numbers.values()) == head - 1


@pytest.mark.parametrize(
    "model_name",
    [
        "resnet18", "convnext_atto", "efficientnet_b0", "densenet121", "dpn48b", "inception_v3", "inception_v4",
        "nasnetalarge", "pvt_v2_b0", "rdnet_tiny", "hrnet_w18_small", "hiera_tiny_224", "davit_tiny", "pit_ti_224",
        "xcit_nano_12_p8_224", "swinv2_tiny_window8_256", "mambaout_femto", "beit_base_patch16_224", "levit_128s",
    ],
)  # fmt: skip
def test_models_of_other_families_have_the_layers_of_timm(model_name: str) -> None:
    """Matchers of every kind: patterns, lists of them, functions, none."""
    with torch.device("meta"):
        trunk = timm.create_model(model_name)
    layers, head = trunk_layers(trunk)
    reference = param_groups_layer_decay(trunk, layer_decay=RATE)
    scales = {id(parameter): group["lr_scale"] for group in reference for parameter in group["params"]}
    for name, parameter in trunk.named_parameters():
        assert RATE ** (head - layers[name]) == scales[id(parameter)], name
    assert sorted({*layers.values(), head}) == list(range(head + 1))
