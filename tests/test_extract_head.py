"""The pooled embedding and the top-5 are those of timm's own model, from the pass that gives the maps."""

import pytest
import timm
import torch
from zoo import ZOO, Spec, image, randomise

import adapters
from adapters.extraction.head import create_with_head
from adapters.extraction.options import ExtractionOptions

EVERYTHING = ExtractionOptions(outputs=("pyramid", "embedding", "top5"))
CLASSIFIED = [spec for spec in ZOO if not spec.options.get("stage_norm")]


def timm_model(spec: Spec) -> torch.nn.Module:
    """timm's model itself, randomised, with a classifier where its weights come without one."""
    torch.manual_seed(0)
    return randomise(timm.create_model(spec.model_name, **{"num_classes": 10, **spec.options.get("trunk", {})})).eval()


@pytest.mark.parametrize("spec", CLASSIFIED, ids=str)
@torch.no_grad()
def test_embedding_and_top5_equal_timm_at_the_native_size(spec: Spec) -> None:
    """With levels that leave the last stage out, too."""
    options = dict(spec.options)
    options["trunk"] = dict(spec.options.get("trunk", {}), num_classes=10)
    model = timm_model(spec)
    # Few classes, though their number is not for a user to set.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.base.check_trunk_arguments", lambda _: None)
        adapter = create_with_head(spec.model_name, classifier=True, **options).eval()
    adapter.trunk.load_state_dict(model.state_dict())
    side = model.pretrained_cfg["input_size"][-1]
    x = image(side, side)
    maps = adapter(x)
    features = model.forward_features(x)
    expected = model.forward_head(features, pre_logits=True)
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        adapter.trunk.forward_head(adapter.final, pre_logits=True), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(adapter.trunk.forward_head(adapter.final), model(x), rtol=1e-4, atol=1e-4)
    plain = adapters.TimmAdapter(spec.model_name, **spec.options).eval()
    plain.load_state_dict({key: value for key, value in adapter.state_dict().items() if key in plain.state_dict()})
    for with_head, without in zip(maps, plain(x), strict=True):
        torch.testing.assert_close(with_head, without, rtol=1e-5, atol=1e-5)
