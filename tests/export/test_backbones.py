"""Exports of adapters: small models, written, run and compared; and the form for files, over the whole zoo."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from lab.compare import relative_error
from zoo import TOKENS, TWINS, ZOO, Spec, image

import adapters
from adapters.export import export_backbone, open_file

SPECS = {spec.name: spec for spec in ZOO}
FREE = [spec for spec in ZOO if spec.name not in {"beit", "levit", "nest", "hiera", "crossvit", "pit"}]


@pytest.mark.parametrize("spec", FREE, ids=str)
@torch.no_grad()
def test_the_form_for_files_computes_the_same(spec: Spec) -> None:
    """Without a trace: pads, crops, windows and shifts by arithmetic alone, at sizes on both sides of every branch."""
    adapter = spec.build()
    assert adapter.exports_any_size
    for size in ((97, 65), (31, 40), (224, 160)):
        with mock.patch("torch.compiler.is_exporting", return_value=True):
            exported = adapter(image(*size))
        for one, other in zip(exported, adapter(image(*size)), strict=True):
            assert relative_error(one, other) < 1e-5


def test_onnx_of_any_size(tmp_path: Path) -> None:
    adapter = SPECS["resnet"].build()
    check = export_backbone(adapter, tmp_path / "resnet.onnx")
    assert check.worst < 1e-5
    assert (tmp_path / "resnet.onnx.check.md").read_text() == str(check)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resnet.onnx", "resnet.onnx.check.md"]
    file = open_file(tmp_path / "resnet.onnx")
    x = image(47, 130, batch=4)
    for actual, expected in zip(file(x.numpy()).values(), adapter(x), strict=True):
        np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-4)
    assert file.metadata["strides"] == [4, 8, 16, 32]
    assert file.metadata["mean"] == [123.675, 116.28, 103.53]
    assert file.names == ("map0", "map1", "map2", "map3")


def test_a_program_of_any_size_with_windows(tmp_path: Path) -> None:
    one_block = {**TWINS, "depths": [1, 1, 1, 1]}
    adapter = replace(SPECS["twins_svt_two_stages"], options={"trunk": one_block, "out_indices": (0,)}).build()
    check = export_backbone(adapter, tmp_path / "twins.pt2")
    assert [row[0] for row in check.rows][1] == (3, 97, 65)
    maps = open_file(tmp_path / "twins.pt2")(image(50, 33).numpy())
    for actual, expected in zip(maps.values(), adapter(image(50, 33)), strict=True):
        np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-4)


def test_a_model_for_one_size_is_exported_at_one(tmp_path: Path) -> None:
    adapter = SPECS["beit"].build()
    export_backbone(adapter, tmp_path / "beit.pt2", size=(40, 56), batch=1)
    assert set(open_file(tmp_path / "beit.pt2")(image(40, 56, batch=1).numpy())) == {"map0", "map1"}


def test_attention_over_five_axes_is_written_as_onnx(tmp_path: Path) -> None:
    adapter = SPECS["hiera"].build()
    assert export_backbone(adapter, tmp_path / "hiera.onnx", size=(72, 40), batch=1).worst < 1e-5


def test_a_model_for_one_size_says_so(tmp_path: Path) -> None:
    says = "beit_base_patch16_224 cannot be exported with free height and width: timm builds it for one image size"
    with pytest.raises(ValueError, match=says):
        export_backbone(SPECS["beit"].build(), tmp_path / "beit.pt2")


def test_half_precision_keeps_float32_outside(tmp_path: Path) -> None:
    adapter = replace(SPECS["vit"], options={"trunk": {**TOKENS, "depth": 1}}).build()
    check = export_backbone(adapter, tmp_path / "vit.pt2", size=(64, 96), half=True)
    assert 1e-6 < check.worst < check.tolerance == 2e-2
    maps = open_file(tmp_path / "vit.pt2")(image(64, 96).numpy())
    assert {array.dtype for array in maps.values()} == {np.dtype("float32")}
    assert all(parameter.dtype == torch.float32 for parameter in adapter.parameters())


def test_an_adapter_is_left_as_it_is(tmp_path: Path) -> None:
    adapter = SPECS["convnext"].build().train()
    export_backbone(adapter, tmp_path / "convnext.pt2", size=(64, 64), batch=1)
    assert adapter.training
    assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_the_zoo_has_the_owed_families() -> None:
    owed = {adapters.TwinsAdapter, adapters.SwinV2CrAdapter, adapters.VisionTransformerAdapter, adapters.ConViTAdapter}
    assert owed <= {spec.family for spec in FREE}
