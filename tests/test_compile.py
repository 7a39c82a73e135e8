"""torch.compile with dynamic shapes: the same numbers at sizes that were never compiled for."""

import pytest
import torch
from zoo import ZOO, Spec, image

COMPILED = ("twins_pcpvt", "vit_rope_reg", "convit", "convit_pyramid", "resnet")
SIZES = ((64, 96), (128, 160), (96, 224))


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in ZOO if spec.name in COMPILED], ids=str)
@torch.no_grad()
def test_compiled_maps_equal_eager_ones(spec: Spec) -> None:
    """The graph is traced; lowering it and generating code is torch's own."""
    torch._dynamo.reset()
    adapter = spec.build()
    compiled = torch.compile(adapter, dynamic=True, backend="eager")
    for height, width in SIZES:
        x = image(height, width)
        for one, other in zip(compiled(x), adapter(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
