"""Decoding of exported detectors and segmentors in numpy, without torch.

The folder is complete in itself: ``dense-adapters export CONFIG CHECKPOINT`` writes a copy beside the file. It needs
numpy, and for :func:`load` onnxruntime::

    from decoding import load

    model = load("detector.onnx")
    found = model(image)  # (H, W, 3), RGB: boxes, scores, labels

What it computes is what mmdet and mmseg predict with the same weights.
"""

from .model import Model, load

__all__ = ["Model", "load"]
