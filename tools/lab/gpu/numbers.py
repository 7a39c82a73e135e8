"""The zoo of the tests on a device beside the CPU: numbers in three precisions, gradients, and host synchronisation."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from adapters.base import BackboneAdapter
from lab.compare import gradient_error, map_errors
from lab.gpu.rows import Row, attempt, beyond

#: Odd sides, and no patch or window divides them; the sizes of a compiled model, of whole patches and not.
SIZE = (97, 130)
COMPILED_SIZES = ((96, 128), (97, 130), (160, 64))
#: Greatest relative error of a map in the 2-norm beside fp32 on the CPU.
LIMITS = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2, "gradients": 1e-3}
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: Models of the zoo that are compiled, one of each way through the package.
COMPILED = ("twins_svt", "twins_pcpvt", "swinv2_cr", "vit_rope_reg", "convit", "resnet")


def check_numbers(specs: Sequence[Any], device: torch.device) -> Iterator[Row]:
    """Compare each model of the zoo with itself on the CPU."""
    for spec in specs:
        yield attempt("numbers", spec.name, lambda spec=spec: compare(spec.build(), device))


def compare(adapter: BackboneAdapter, device: torch.device) -> tuple[str, str]:
    """Return the errors of an adapter on a device in words, and those that are beyond their limits."""
    image = draw(SIZE, adapter.in_channels)
    with torch.no_grad():
        expected = adapter(image)
        there, moved = copy.deepcopy(adapter).to(device), image.to(device)
        maps = there(moved)
        check_contract(maps, adapter, moved)
        errors = {"fp32": max(map_errors(_fetch(maps), expected))}
        for name, dtype in PRECISIONS.items():
            with torch.autocast(device.type, dtype):
                errors[name] = max(map_errors(_fetch(there(moved)), expected))
    errors["gradients"] = _gradient_error(adapter, there, image, moved)
    problem = beyond(errors, LIMITS)
    waits = "" if device.type == "cpu" else synchronisation(there, moved)
    found = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return found, "; ".join(filter(None, [problem, waits]))


def check_contract(maps: Sequence[Tensor], adapter: BackboneAdapter, image: Tensor) -> None:
    """Require maps of the image's device and dtype, contiguous, of the channels and sizes that the levels promise.

    Raises:
        ValueError: a map is another.
    """
    for index, (level, one) in enumerate(zip(adapter.levels, maps, strict=True)):
        shape = (len(image), level.channels, *(-(-side // level.stride) for side in image.shape[-2:]))
        if tuple(one.shape) != shape or one.device != image.device or one.dtype != image.dtype:
            raise ValueError(f"map {index} is {tuple(one.shape)}, {one.dtype}, {one.device}; promised: {shape}")
        if not one.is_contiguous():
            raise ValueError(f"map {index} is not contiguous")


def synchronisation(adapter: BackboneAdapter, image: Tensor) -> str:
    """Return where a forward pass at a known size waits for the GPU; nothing, if it nowhere does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad():
            adapter(image)
    except RuntimeError as error:
        return f"waits for the GPU: {' '.join(str(error).split())[:120]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def check_compiled(specs: Sequence[Any], device: torch.device) -> Iterator[Row]:
    """Compare models that Inductor compiles for changing sizes with eager ones."""
    for spec in specs:
        yield attempt(
            "torch.compile", spec.name, lambda spec=spec: compile_and_compare(spec.build().to(device), device)
        )


def compile_and_compare(adapter: BackboneAdapter, device: torch.device) -> tuple[str, str]:
    """Return the errors of a compiled adapter at three sizes in words, and those that are beyond the limit."""
    torch._dynamo.reset()
    compiled = torch.compile(adapter, dynamic=True)
    errors = {}
    for size in COMPILED_SIZES:
        image = draw(size, adapter.in_channels).to(device)
        with torch.no_grad():
            errors[f"{size[0]} x {size[1]}"] = max(map_errors(compiled(image), adapter(image)))
    found = ", ".join(f"{name}: {error:.1e}" for name, error in errors.items())
    return found, beyond(errors, dict.fromkeys(errors, LIMITS["gradients"]))


def draw(size: tuple[int, int], channels: int) -> Tensor:
    """Draw two images ``(2, C, H, W)``."""
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def _gradient_error(here: BackboneAdapter, there: BackboneAdapter, image: Tensor, moved: Tensor) -> float:
    gradients = []
    for adapter, x in ((here, image), (there, moved)):
        adapter.zero_grad(set_to_none=True)
        torch.stack([one.square().mean() for one in adapter(x)]).sum().backward()
        lacking = [name for name, parameter in adapter.named_parameters() if parameter.grad is None]
        if lacking:
            raise ValueError(f"no gradient: {', '.join(lacking[:3])}")
        gradients.append({name: parameter.grad.cpu() for name, parameter in adapter.named_parameters()})
    return gradient_error(*reversed(gradients)) or 0.0


def _fetch(maps: Sequence[Tensor]) -> list[Tensor]:
    return [one.float().cpu() for one in maps]
