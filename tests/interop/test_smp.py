"""Adapters as encoders of segmentation_models_pytorch: every model at its depth, trained, with maps that are ours."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from lab.frameworks import steps
from torch import nn
from zoo import PYRAMID, ZOO, Spec, image

from adapters import BackboneAdapter
from adapters.interop.smp import DPT, SmpEncoder, register

SPECS = {spec.name: spec for spec in ZOO}
NAME = "of-a-test"


def with_options(name: str, **options: object) -> Spec:
    """A spec of the zoo with further options."""
    return replace(SPECS[name], options={**SPECS[name].options, **options})


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    before = dict(smp.encoders.encoders)
    yield
    smp.encoders.encoders.clear()
    smp.encoders.encoders.update(before)


def check_step(model: nn.Module, height: int, width: int) -> None:
    steps.segmentation_loss(model.train(), image(height, width, batch=1)).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("head", "spec", "size"),
    [
        ("Unet", SPECS["twins_svt"], (97, 65)),
        ("Unet", SPECS["vit_pyramid"], (97, 65)),
        ("FPN", with_options("nest", pyramid=PYRAMID), (64, 96)),
        ("UPerNet", SPECS["swinv2_cr"], (64, 96)),
    ],
    ids=str,
)
def test_a_model_trains(head: str, spec: Spec, size: tuple[int, int]) -> None:
    check_step(steps.smp_model(head, register(spec.build(), NAME)), *size)


@pytest.mark.parametrize("spec", [SPECS["vit"], SPECS["vit_pyramid"], SPECS["resnet"]], ids=str)
def test_dpt_trains_on_tokens_and_on_pyramids(spec: Spec) -> None:
    check_step(DPT(spec.build(), **steps.DPT), 64, 96)


def test_the_maps_are_the_adapters() -> None:
    adapter, x = SPECS["twins_svt"].build(), image(97, 65)
    encoder = SmpEncoder(adapter)
    with torch.no_grad():
        maps, expected = encoder(x), adapter(x)
    assert encoder.out_channels == [3, 0, 16, 32, 48, 64]
    assert encoder.output_stride == 32
    assert [m.shape[1] for m in maps] == encoder.out_channels
    assert torch.equal(maps[0], x)
    assert tuple(maps[1].shape[-2:]) == (49, 33)
    assert all(torch.equal(one, other) for one, other in zip(maps[2:], expected, strict=True))


def test_a_map_of_stride_two_is_used_where_there_is_one() -> None:
    adapter = SPECS["resnet"].build(out_indices=(0, 1, 2))
    encoder = SmpEncoder(adapter, depth=3)
    assert encoder.out_channels == [3, *(level.channels for level in adapter.levels)]
    assert [tuple(m.shape[-2:]) for m in encoder(image(97, 65))] == [(97, 65), (49, 33), (25, 17), (13, 9)]


def test_a_dilated_adapter_in_deeplab() -> None:
    trunk = {**SPECS["resnet"].options["trunk"], "output_stride": 16}
    name = register(with_options("resnet", trunk=trunk).build(), NAME)
    model = smp.DeepLabV3Plus(
        name, encoder_weights=None, classes=3, decoder_channels=16, decoder_atrous_rates=(1, 2, 3)
    )
    assert model.encoder.output_stride == 16
    assert tuple(model.eval()(image(64, 96)).shape) == (2, 3, 64, 96)


def test_each_model_has_a_copy_with_the_weights() -> None:
    adapter = SPECS["twins_svt"].build()
    name = register(adapter)
    assert name == "adapter-twins_svt_small"
    one, other = (steps.smp_model("Unet", name).encoder.adapter for _ in range(2))
    for copied in (one, other):
        assert isinstance(copied, BackboneAdapter)
        assert all(torch.equal(tensor, copied.state_dict()[key]) for key, tensor in adapter.state_dict().items())
    pointers = [{parameter.data_ptr() for parameter in module.parameters()} for module in (adapter, one, other)]
    assert len(set.union(*pointers)) == sum(map(len, pointers))


def test_a_model_is_saved_and_loaded_by_smp(tmp_path: Path) -> None:
    model = steps.smp_model("Unet", register(SPECS["twins_svt"].build(), NAME)).eval()
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    x = image(97, 65)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_what_a_model_asks_and_the_adapter_cannot_give() -> None:
    name = register(SPECS["twins_svt"].build(), NAME)
    with pytest.raises(ValueError, match=r"encoder_depth=4 takes strides 4, 8, 16, but .* out_indices=\(0, 1, 2\)"):
        smp.Unet(name, encoder_depth=4, encoder_weights=None, decoder_channels=(8, 8, 8, 8))
    with pytest.raises(
        ValueError, match=r"output stride 16 takes strides 4, 8, 16, 16.*trunk=dict\(output_stride=16\)"
    ):
        smp.DeepLabV3Plus(name, encoder_weights=None)
    with pytest.raises(ValueError, match="in_channels=4, but the adapter takes 3"):
        smp.Unet(name, encoder_weights=None, in_channels=4)
    with pytest.raises(ValueError, match=r"gives stride 16: 48 channels.*pyramid=dict"):
        SmpEncoder(SPECS["vit"].build())
    with pytest.raises(ValueError, match=r"^DPT takes 4 maps .* gives stride 14: 48 channels.*pyramid=dict"):
        DPT(SPECS["vit_patch14_reg"].build())
    with pytest.raises(ValueError, match=r"^DPT takes 2 maps .* out_indices=\(0, 1\)"):
        DPT(SPECS["twins_svt"].build(), decoder_intermediate_channels=(8, 8))
