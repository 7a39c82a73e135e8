"""Quantised linear layers: every one is quantised, and the maps stay near those in fp32."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from zoo import WITHOUT_LINEAR_LAYERS, Spec, image, models_without

from adapters import BackboneAdapter

each_model = pytest.mark.parametrize("spec", models_without(WITHOUT_LINEAR_LAYERS), ids=str)


def relative_error(quantised: nn.Module, adapter: BackboneAdapter) -> float:
    x = image(40, 56)
    with torch.no_grad():
        pairs = zip(quantised(x), adapter(x), strict=True)
        return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@each_model
@pytest.mark.parametrize(
    "config", [Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()], ids=["w8", "a8w8"]
)
def test_torchao(spec: Spec, config: Int8WeightOnlyConfig | Int8DynamicActivationInt8WeightConfig) -> None:
    adapter = spec.build()
    quantize_(adapter, config)
    layers = [module for module in adapter.modules() if isinstance(module, nn.Linear)]
    assert [layer for layer in layers if type(layer.weight) in (torch.Tensor, nn.Parameter)] == []
    assert 0 < relative_error(adapter, spec.build()) < 0.1


@each_model
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_torchs_dynamic_quantisation(spec: Spec) -> None:
    adapter = spec.build()
    quantised = quantize_dynamic(adapter, {nn.Linear}, dtype=torch.qint8)
    assert [name for name, module in quantised.named_modules() if type(module) is nn.Linear] == []
    assert 0 < relative_error(quantised, adapter) < 0.15
