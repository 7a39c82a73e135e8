"""The cells of one case: a detector or segmentor is written as ONNX, opened by ``decoding``, and predicts images."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS

from adapters.export.decoding import load
from adapters.openmmlab.export.files import draw_weights, export_model
from lab.coverage.checks import outcome, require
from lab.heads.cases import CASES
from lab.heads.predictions import compare, predict
from lab.randomise import randomise

#: Height and width of images, none of which was traced or checked at, and of what they were before they were resized.
SIZES = (((224, 288), (300, 386)), ((251, 179), (251, 179)), ((160, 352), (200, 440)))
#: The noise of a weight, as a share of what its fan-in bears.
NOISE = 0.5


def measure(case: str) -> Iterator[tuple[str, str]]:
    """Yield ``('file', outcome)``, the greatest difference, and ``('predictions', outcome)``."""
    torch.manual_seed(0)
    _, _, make = CASES[case]
    cfg = make(CASES[case][1])
    model = MODELS.build(cfg.model)
    draw_weights(model)
    randomise(model, fan_in_share=NOISE).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        worst: list[float] = []

        def export() -> None:
            checks, _ = export_model(cfg, model, path)
            worst.append(max(check.worst for check in checks.values()))

        yield "file", outcome(export)
        if not worst:
            return
        yield "difference", f"{worst[0]:.1e}"
        yield "megabytes", f"{sum(file.stat().st_size for file in Path(folder).glob('*.onnx*')) / 1e6:.0f}"
        compared: list[str] = []
        yield "predictions", outcome(_compare, model, path, compared)
        yield "compared", ", ".join(compared)


def _compare(model: torch.nn.Module, path: Path, compared: list[str]) -> None:
    exported = load(path)
    multiple = exported.metadata["images"]["size_divisor"]
    rng = np.random.default_rng(0)
    for size, original in SIZES:
        if exported.metadata["model"] == "RTMDet":  # mmdet itself runs it at no other sizes
            size = (size[0] // multiple * multiple, size[1] // multiple * multiple)
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        (found,) = exported.predict([image], original)
        wrong, what = compare(found, predict(model, image, original))
        compared.append(what)
        require(not wrong, f"at {size[0]} x {size[1]}: {'; '.join(wrong[:3])}")
