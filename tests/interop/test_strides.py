"""A head whose strides a model cannot give is told in one line what it gives, and which option helps."""

import pytest
from zoo import ZOO, Spec

from adapters.interop.strides import check_doubling, check_strides

SPECS = {spec.name: spec for spec in ZOO}
TWINS = "stride 4: 16 channels, stride 8: 32 channels, stride 16: 48 channels, stride 32: 64 channels"


def test_doubling_strides_pass() -> None:
    check_doubling(SPECS["twins_svt"].build(), "A head")
    check_doubling(SPECS["vit_pyramid"].build(), "A head")
    check_strides(SPECS["resnet"].build(out_indices=(2, 3)), (8, 16), "A head")


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        (SPECS["vit"], "pyramid=dict(type='SimpleFeaturePyramid', out_channels=256, out_strides=(4, 8, 16, 32))"),
        (SPECS["vit_patch14_reg"], "pyramid=dict("),
        (SPECS["twins_svt_two_stages"], "out_indices=(0, 1, 2, 3)"),
    ],
    ids=str,
)
def test_other_strides_are_refused_with_the_remedy(spec: Spec, remedy: str) -> None:
    adapter = spec.build()
    with pytest.raises(ValueError, match=r"^A head takes strides that are powers of two") as error:
        check_doubling(adapter, "A head")
    assert "\n" not in str(error.value)
    assert f"but this {spec.model_name} gives stride {adapter.levels[0].stride}: " in str(error.value)
    assert remedy in str(error.value)


def test_these_very_strides() -> None:
    twins = SPECS["twins_svt"].build()
    with pytest.raises(ValueError, match="A head") as error:
        check_strides(twins, (8, 16), "A head")
    assert str(error.value) == (
        f"A head takes strides 8, 16, but this twins_svt_small gives {TWINS}; build the adapter with "
        "out_indices=(1, 2)."
    )
    with pytest.raises(ValueError, match=r"with trunk=dict\(output_stride=16\)"):
        check_strides(twins, (4, 8, 16, 16), "A dilated head")
