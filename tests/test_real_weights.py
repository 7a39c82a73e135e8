"""Weights that were trained, through extraction, conversion and quantisation: the photographs are what they show."""

from pathlib import Path

import pytest
import timm
import torch
from lab.real_weights.package import MODEL, find_checkpoint
from lab.shapes.photographs import load_photograph, photograph_folder
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

import adapters
from adapters import BackboneAdapter, ExtractionOptions
from adapters.commands import convert
from adapters.commands.extract import main as extract_command
from adapters.export.tracing import Freedom, trace
from adapters.export.verification import make_image
from adapters.extraction.manifest import read_manifest

#: Photographs of scikit-image's wheel, and a word in the name of the best class.
SHOWN = {
    "chelsea.png": "cat",
    "coffee.png": "espresso",
    "rocket.jpg": "missile",
    "camera.png": "tripod",
    "motorcycle_left.png": "moped",
}
PATHS = [str(photograph_folder() / name) for name in SHOWN]
CHECKPOINT = str(find_checkpoint())


class Classifier(nn.Module):
    """The whole of a classification model: the adapter's maps are by the way."""

    def __init__(self, adapter: BackboneAdapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, image: Tensor) -> Tensor:
        return self.adapter.trunk.forward_head(self.adapter.forward_with_head(image)[1])


class Int8(Quantizer):
    """Has the inputs and the weights of every convolution and linear layer in int8."""

    LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
    INPUTS = QuantizationSpec(torch.uint8, HistogramObserver, 0, 255, torch.per_tensor_affine)
    WEIGHTS = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, ch_axis=0)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        for node in model.graph.nodes:
            if node.target in self.LAYERS:
                specs = {node.args[0]: self.INPUTS, node.args[1]: self.WEIGHTS}
                node.meta["quantization_annotation"] = QuantizationAnnotation(specs, _annotated=True)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        pass


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(adapters.create_adapter(MODEL, weights=CHECKPOINT, keep_head=True)).eval()


@pytest.fixture(scope="module")
def images(classifier: Classifier) -> Tensor:
    """The middles of the photographs as the model takes them, ``(N, 3, 224, 224)``."""
    expected = classifier.adapter.preprocessing
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (expected.mean, expected.std))
    squares = []
    for name in SHOWN:
        pixels = torch.tensor(load_photograph(name)).permute(2, 0, 1)[None].float()
        side = min(pixels.shape[2:])
        top, left = ((extent - side) // 2 for extent in pixels.shape[2:])
        square = pixels[:, :, top : top + side, left : left + side]
        squares.append(F.interpolate(square, (224, 224), mode="bilinear", antialias=True))
    return (torch.cat(squares) - mean) / std


def test_the_command_says_what_the_photographs_show(tmp_path: Path) -> None:
    options = ["--backbone", MODEL, "--checkpoint", CHECKPOINT, "--outputs", "top5", "--size", "native"]
    assert extract_command([*PATHS, *options, "--workers", "0", "--out", str(tmp_path)]) == 0
    for row, word in zip(read_manifest(tmp_path), SHOWN.values(), strict=True):
        assert word in row["top5_class"][0], row["path"]
        assert row["top5_probability"] == sorted(row["top5_probability"], reverse=True)
        assert row["top5_probability"][0] > 0.2


def test_crops_of_a_photograph_are_nearer_than_those_of_two() -> None:
    halves = []
    for name in SHOWN:
        pixels = load_photograph(name)
        middle, share = pixels.shape[1] // 2, pixels.shape[1] // 8
        halves += [pixels[:, : middle + share], pixels[:, middle - share :]]
    options = ExtractionOptions(outputs=("embedding",), size=(192, 192))
    found = list(adapters.extract(halves, MODEL, CHECKPOINT, options))
    vectors = F.normalize(torch.stack([one.embedding for one in found if one.embedding is not None]), dim=1)
    similarity = (vectors @ vectors.T).view(len(SHOWN), 2, len(SHOWN), 2)
    for photograph in range(len(SHOWN)):
        own = similarity[photograph, 0, photograph, 1]
        others = [other for other in range(len(SHOWN)) if other != photograph]
        assert own > similarity[photograph][:, others].max() + 0.1, list(SHOWN)[photograph]


def test_conversion_and_the_way_back_are_exact(classifier: Classifier, images: Tensor, tmp_path: Path) -> None:
    timms, ours, back = (tmp_path / name for name in ("timm.safetensors", "ours.pth", "back.safetensors"))
    assert convert.main([CHECKPOINT, str(timms), "--to", "timm", "--model", MODEL]) == 0
    assert convert.main([str(timms), str(ours), "--to", "adapters", "--model", MODEL]) == 0
    assert convert.main([str(ours), str(back), "--to", "timm"]) == 0
    there, again = load_file(timms), load_file(back)
    assert len(there) == 296
    assert {name: tensor for name, tensor in there.items() if torch.equal(tensor, again[name])}.keys() == again.keys()
    model = timm.create_model(MODEL, pretrained=False).eval()
    model.load_state_dict(there)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images[:1]), model(images[:1]), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*erase_node:UserWarning")
def test_int8_keeps_the_best_class(classifier: Classifier, images: Tensor) -> None:
    prepared = prepare_pt2e(torch.export.export(classifier, (images[:1],)).module(), Int8())
    with torch.no_grad():
        expected = torch.cat([classifier(image[None]) for image in images])
        for image in images:
            prepared(image[None])  # calibrates
        quantised = convert_pt2e(prepared)
        found = torch.cat([quantised(image[None]) for image in images])
    scales = [node for node in quantised.graph.nodes if "dequantize_per_channel" in str(node.target)]
    layers = [module for module in classifier.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(scales) == len(layers) == 50
    best = found.argmax(1)
    assert (best == expected.argmax(1)).sum() >= len(SHOWN) - 1  # the cat is as good as equally of two breeds
    assert (best[:, None] == expected.topk(2).indices).any(1).all()
    assert 0.001 < float((found - expected).norm() / expected.norm()) < 0.3


def test_fixed_and_free_exports_give_the_same_five_classes(images: Tensor) -> None:
    # The model of the same tensors whose padding is plain: that of tf_* takes a minute to trace for any size.
    whole = Classifier(adapters.create_adapter("efficientnet_lite0", weights=CHECKPOINT, keep_head=True)).eval()
    whole.requires_grad_(False)
    fixed = trace(whole, images[:1], Freedom(batch=False, size=False), MODEL).module()
    free = trace(whole, make_image((2, 203, 331), 3, 0), Freedom(), MODEL).module()
    expected = whole(images).topk(5).indices
    assert torch.equal(torch.cat([fixed(image[None]) for image in images]).topk(5).indices, expected)
    assert torch.equal(free(images).topk(5).indices, expected)
    larger = F.interpolate(images[:1], (301, 253), mode="bilinear")
    assert torch.equal(free(larger).topk(5).indices, whole(larger).topk(5).indices)
