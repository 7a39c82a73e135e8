"""torch.compile with dynamic shapes: the same numbers at sizes that were never compiled for."""

from typing import Any

import pytest
import torch
from zoo import CONVIT, TOKENS, ZOO, image, randomise

import adapters

#: Both kinds of attention, subsampled and not, in two stages: tracing symbolic sizes through one takes seconds.
TWO_STAGES = {"depths": [2, 2], "embed_dims": [16, 32], "num_heads": [1, 2], "sr_ratios": [2, 1]}
#: Adapters of the zoo to compile, with fewer stages or blocks of each kind.
COMPILED: dict[str, dict[str, Any]] = {
    "twins_svt": {"trunk": {**TWO_STAGES, "wss": [7, 7]}},
    "twins_pcpvt": {"trunk": TWO_STAGES},
    "swinv2_cr": {"out_indices": (0,)},
    "vit_rope_reg": {"trunk": {**TOKENS, "depth": 2}},
    "convit": {"trunk": {**CONVIT, "depth": 2, "local_up_to_layer": 1}},
    "resnet": {},
}
#: Of whole patches, and not.
SIZES = ((64, 96), (128, 160), (106, 217), (96, 224))


def build(name: str, **more: Any) -> adapters.BackboneAdapter:
    spec = next(spec for spec in ZOO if spec.name == name)
    return randomise(adapters.TimmAdapter(spec.model_name, **{**spec.options, **COMPILED[name], **more})).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
@torch.no_grad()
def test_few_graphs_give_the_maps_of_every_size(name: str) -> None:
    """One for whole patches, one for the size that is padded. Lowering them and generating code is torch's own."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    adapter = build(name)
    compiled = torch.compile(adapter, dynamic=True, backend="eager")
    for height, width in SIZES:
        x = image(height, width)
        for one, other in zip(compiled(x), adapter(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.slow
def test_gradients_through_compiled_windows_equal_eager_ones() -> None:
    """Cutting into windows has a derivative of its own where it is compiled, shifted or not."""
    torch._dynamo.reset()
    adapter = build("swinv2_cr", out_indices=(0,))
    compiled = torch.compile(adapter, dynamic=True, backend="aot_eager")
    gradients = []
    for model in (adapter, compiled):
        adapter.zero_grad()
        model(image(64, 96))[0].square().sum().backward()
        gradients.append({key: parameter.grad.clone() for key, parameter in adapter.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-5 + 1e-3 * gradient.abs().max())
