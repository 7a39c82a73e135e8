"""``dense-adapters layer-decay``: the groups of a recipe and of a config with another backbone."""

import re

import pytest

from adapters.commands.layer_decay import main


def test_the_groups_of_a_recipe(capsys: pytest.CaptureFixture) -> None:
    """A ViT-B has 12 blocks; 0 is the stem, 13 the pyramid, and ``-`` stands for parts outside of the backbone."""
    assert main(["adapters::upernet_vit-base-rope_160k_ade20k-512x512"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:4] == ["layer", "scale", "lr", "decay"]
    layers = [row[0] for row in rows[1:]]
    assert list(dict.fromkeys(layers)) == [*map(str, range(14)), "-"]
    rates = [float(row[2]) for row in rows[1:]]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_names_and_a_rate_for_a_config_without_layer_decay(capsys: pytest.CaptureFixture) -> None:
    config = ["mmdet::retinanet_r18_fpn_1x_coco", "--backbone", "test_vit"]
    with pytest.raises(ValueError, match=r"constructor=None, not 'TimmLayerDecayConstructor'.*--decay-rate"):
        main(config)
    assert main([*config, "--decay-rate", "0.5", "--names", "--cfg-options", "optim_wrapper.optimizer.lr=0.08"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"ResNet .* -> test_vit", printed)
    assert "layer -, lr 0.08:" in printed
    # ResNet's frozen stage of four is the first of its blocks.
    assert "  backbone.trunk.blocks.0.attn.qkv.weight" not in printed.splitlines()
    assert "  backbone.trunk.blocks.5.attn.qkv.weight" in printed.splitlines()
