"""The cells of one family: its smallest model, written as ONNX and run beside eager at six unseen sizes."""

import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters import TimmAdapter
from adapters.export.backbones import EXAMPLE, export_backbone
from adapters.export.handing_over import write_verified
from adapters.export.tracing import Freedom
from adapters.export.verification import cases_of, make_image
from lab.coverage.checks import outcome
from lab.coverage.representatives import Representative
from lab.randomise import randomise

#: The files that are written, by column: their endings, and the size that they are fixed to.
FILES: dict[str, tuple[str, tuple[int, int] | None]] = {
    "onnx free": ("onnx", None),
    "onnx fixed": ("onnx", (EXAMPLE[1], EXAMPLE[2])),
}
#: Bytes of data that a measurement may take.
MEMORY = 9 << 30
#: The noise of a weight, as a share of what its fan-in bears, so that the numbers of deep models stay small.
NOISE = 0.5


class Maps(nn.Module):
    """A peer's model as a module that returns a tuple of maps."""

    def __init__(self, model: nn.Module, maps: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model = model
        self.maps = maps

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of an image ``(B, C, H, W)``."""
        return tuple(self.maps(self.model(image)))


def measure_adapter(one: Representative) -> Iterator[tuple[str, str]]:
    """Yield ``(column, outcome)`` for each file of our adapter."""

    def build() -> Any:
        return randomise(TimmAdapter(one.model_name), fan_in_share=NOISE).eval()

    yield from _measure(build, lambda model, path, size: export_backbone(model, path, size=size))


def measure_timm(one: Representative) -> Iterator[tuple[str, str]]:
    """Yield the same of timm's ``features_only``, through the same exporter."""

    def build() -> nn.Module:
        import timm

        return Maps(timm.create_model(one.model_name, features_only=True), tuple)

    yield from _measure(build, _export_peer)


def measure_transformers(one: Representative) -> Iterator[tuple[str, str]]:
    """Yield the same of transformers' ``TimmBackbone``, through the same exporter."""

    def build() -> nn.Module:
        from transformers import TimmBackbone, TimmBackboneConfig

        config = TimmBackboneConfig(backbone=one.model_name, use_pretrained_backbone=False)
        return Maps(TimmBackbone(config), lambda output: output.feature_maps)

    yield from _measure(build, _export_peer)


def _export_peer(model: nn.Module, path: Path, size: tuple[int, int] | None) -> None:
    height, width = EXAMPLE[1:] if size is None else size
    example = make_image((EXAMPLE[0], height, width), 3, seed=3)
    with torch.no_grad():
        count = len(model(example))
    write_verified(
        model,
        path,
        example=example,
        names=[f"map{place}" for place in range(count)],
        cases=cases_of(None, size),
        freedom=Freedom(size=size is None),
    )


def _measure(build: Callable[[], Any], export: Callable[[Any, Path, Any], Any]) -> Iterator[tuple[str, str]]:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.manual_seed(0)
    built: list[Any] = []

    def start() -> None:
        model = build().eval().requires_grad_(False)
        built.append(randomise(model, fan_in_share=NOISE) if isinstance(model, Maps) else model)

    yield "build", outcome(start)
    # The file of one size first: it is written sooner, and is there when the other one runs out of time.
    for column, (ending, size) in reversed(FILES.items()) if built else ():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model.{ending}"
            yield column, outcome(export, built[0], path, size)
