"""Class tokens and registers are timm's own; models without them say so."""

import copy

import pytest
import timm
import torch
from zoo import TOKENS, ZOO, image, randomise

import adapters
from adapters.extraction.building import build_extractor, build_with_head
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.vectors import check_vectors, vectors_of

#: Models with a class token, and the number of their registers.
TOKENED = {"vit": 0, "vit_patch14_reg": 4, "dinov3": 4, "eva02": 0, "convit": 0, "beit": 0}
BOTH = ("cls", "registers")


@pytest.mark.parametrize("name", TOKENED)
@torch.no_grad()
def test_the_class_token_is_timms_with_token_pooling(name: str) -> None:
    spec = next(spec for spec in ZOO if spec.name == name)
    torch.manual_seed(0)
    # timm builds other norms where it pools by the token alone, so that its weights would be named otherwise.
    model = randomise(timm.create_model(spec.model_name, **spec.options["trunk"], num_classes=0)).eval()
    adapter = build_with_head({"model_name": spec.model_name, **spec.options}, ("cls",)).eval()
    adapter.trunk.load_state_dict(model.state_dict(), strict=False)
    model.global_pool = "token"
    side = model.pretrained_cfg["input_size"][-1]
    for x in (image(side, side), image(side + 9, side - 40)) if name != "beit" else (image(side, side),):
        final = adapter.forward_with_head(x)[1]
        outputs = BOTH if TOKENED[name] else ("cls",)
        found = vectors_of(adapter.trunk, final, outputs)
        if x.shape[2:] == (side, side):
            features = model.forward_features(x)
            expected = model.forward_head(features, pre_logits=True)
            assert expected.std() > 1e-3
            torch.testing.assert_close(found["cls"], expected, rtol=1e-5, atol=1e-5)
            if TOKENED[name]:
                registers = features[:, 1 : 1 + TOKENED[name]]
                torch.testing.assert_close(found["registers"], registers, rtol=1e-5, atol=1e-5)
        assert found["cls"].shape == (2, final.shape[-1])


def test_a_model_whose_embedding_is_its_class_token() -> None:
    """DINOv2 as timm pools it, through a whole extractor."""
    config = {"model_name": "vit_small_patch14_reg4_dinov2", "trunk": TOKENS}
    options = ExtractionOptions(outputs=("cls", "registers", "embedding"))
    extractor = build_extractor(config, options, "random")
    features = extractor(torch.randint(0, 255, (2, 3, 42, 56), dtype=torch.uint8), [(42, 56), (30, 50)])
    assert torch.equal(features.vectors["cls"], features.vectors["embedding"])
    assert features.vectors["registers"].shape == (2, 4, 48)
    assert features.maps == ()


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("resnet", "cls", "has no class token. It has maps; 'embedding' is what its classifier takes"),
        ("vit", "registers", r"has no register tokens. It has a class token \('cls'\) and maps"),
        ("vit_rope_reg", "cls", "has no class token. It has 4 register tokens and maps"),
    ],
)
def test_models_without_such_tokens_say_so(name: str, output: str, message: str) -> None:
    adapter = next(spec for spec in ZOO if spec.name == name).build(keep_head=True)
    with pytest.raises(ValueError, match=message):
        check_vectors(adapter, (output,))


def test_a_comparison_that_fails_is_told_and_leaves_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = copy.deepcopy(next(spec for spec in ZOO if spec.name == "beit").build(keep_head=True)).train()

    def fail(*_: object) -> None:
        raise RuntimeError("a pass of timm's fails")

    monkeypatch.setattr(type(adapter.trunk), "forward_features", fail)
    with pytest.raises(ValueError, match="cannot come from the pass that gives its maps"):
        check_vectors(adapter, ("cls",))
    assert adapter.training


def test_a_norm_that_a_model_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18 has no final norm: leave out --out-norm"):
        build_extractor({"model_name": "resnet18", "out_norm": True}, ExtractionOptions(), "random")
    config = {"model_name": "vit_small_patch16_224", "trunk": TOKENS, "out_norm": True}
    with_norm = build_extractor(config, ExtractionOptions(), "random")
    assert isinstance(with_norm.adapter, adapters.VisionTransformerAdapter)
    assert with_norm.adapter.out_norm
