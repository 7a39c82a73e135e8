"""A published checkpoint of EfficientNet-PyTorch's, in the two models of timm's that have its tensors."""

import pytest
import torch
from lab.real_weights.package import find_checkpoint

import adapters


@pytest.mark.parametrize("model_name", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_the_checkpoint_is_read_whole(logged: list[str], model_name: str) -> None:
    adapter = adapters.create_adapter(model_name, weights=str(find_checkpoint()), keep_head=True)
    assert "loaded 296 of 296 tensors" in logged[0]
    assert "EfficientNet-PyTorch's names" in logged[0]
    assert "made for norms with eps 1e-3 and TensorFlow's padding, as timm's tf_* models have" in logged[0]
    theirs = torch.load(find_checkpoint(), weights_only=True)
    held = adapter.trunk.state_dict()
    assert torch.equal(held["blocks.6.0.conv_pwl.weight"], theirs["_blocks.15._project_conv.weight"])
    assert torch.equal(held["classifier.bias"], theirs["_fc.bias"])
