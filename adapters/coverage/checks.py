"""What is measured for one model: each check passes in silence or raises, and the reason goes into the table."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from adapters import BackboneAdapter, Level, TimmAdapter
from adapters.benchmarking.flops import flop_counter
from adapters.coverage.randomise import randomise

Size = tuple[int, int]

SIZES: tuple[Size, ...] = ((256, 320), (250, 333), (97, 65), (800, 1344))
SMALL: Size = (97, 65)
TOLERANCE = 1e-4


class WrongError(Exception):
    """A map, gradient or number is not what it must be."""


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise WrongError(reason)


def random_image(size: Size, batch: int = 1, channels: int = 3) -> Tensor:
    """``(B, C, H, W)``, the same at each call."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def check_maps(maps: Sequence[Tensor], levels: Sequence[Level], image: Tensor) -> None:
    """NCHW, exact ceil, the channels and the number of maps that were promised, contiguous, finite."""
    require(len(maps) == len(levels), f"{len(maps)} maps for {len(levels)} levels")
    for feature_map, level in zip(maps, levels, strict=True):
        sides = (math.ceil(side / level.stride) for side in image.shape[-2:])
        expected = (image.shape[0], level.channels, *sides)
        require(
            tuple(feature_map.shape) == expected,
            f"a map is {tuple(feature_map.shape)} where stride {level.stride} means {expected}",
        )
        require(feature_map.dtype == image.dtype, f"a map is {feature_map.dtype}")


def check_size(adapter: BackboneAdapter, size: Size) -> None:
    """Real numbers at one size, in eval mode."""
    image = random_image(size)
    with torch.no_grad():
        maps = adapter.eval()(image)
    check_maps(maps, adapter.levels, image)
    require(all(m.is_contiguous() for m in maps), "a map is not contiguous")
    require(all(bool(torch.isfinite(m).all()) for m in maps), "a map is not finite")


def check_training_size(adapter: BackboneAdapter, size: Size) -> None:
    """Shapes in train mode, on tensors without data where the model allows it."""
    adapter.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            image = torch.empty(2, 3, *size)
            maps = adapter(image)
    except DataDependentOutputException:
        image = random_image(size)
        with torch.no_grad():
            maps = adapter(image)
    check_maps(maps, adapter.levels, image)


def check_gradients(adapter: BackboneAdapter) -> None:
    """After a step at a small odd size in train mode, every parameter has a finite gradient."""
    adapter.train()
    adapter.zero_grad()
    torch.manual_seed(0)
    maps = adapter(random_image(SMALL, batch=2))
    torch.stack([(m * torch.randn_like(m)).sum() for m in maps]).sum().backward()
    parameters = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    require(bool(parameters), "nothing to train")
    missing = [name for name, p in parameters.items() if p.grad is None]
    require(not missing, f"{len(missing)} of {len(parameters)} parameters without gradient, such as {missing[:1]}")
    infinite = [name for name, p in parameters.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not infinite, f"{len(infinite)} gradients are not finite, such as {infinite[:1]}")


def check_compile(adapter: BackboneAdapter) -> None:
    """``torch.compile`` (backend eager: tracing and guards, no code generation) gives the same maps, twice."""
    adapter.eval()
    torch._dynamo.reset()
    compiled = torch.compile(adapter, backend="eager", dynamic=False)
    image = random_image(SMALL)
    with torch.no_grad():
        for _ in range(2):
            close(compiled(image), adapter(image))


def check_frozen(model_name: str) -> None:
    """``frozen_stages=1``: stem and first stage get no gradient, the others do, and frozen norms stay in eval mode."""
    adapter = randomise(TimmAdapter(model_name, frozen_stages=1)).train()
    parts = adapter.part_names()
    everything = sorted(name for part in parts for name in part)
    trained = sorted(name for name, _ in adapter.named_parameters() if not name.startswith("pyramid."))
    require(everything == trained, "the parts are not all of the parameters")
    require(len(parts) >= 3, f"only {len(parts)} parts")
    require(bool(parts[0]) and bool(parts[1]), "the stem or the first stage is empty")
    frozen = {name for part in parts[:2] for name in part}
    sum(m.square().mean() for m in adapter(random_image(SMALL, batch=2))).backward()
    for name, parameter in adapter.named_parameters():
        require(parameter.requires_grad == (name not in frozen), f"{name} is frozen or not, wrongly")
        require((parameter.grad is None) == (name in frozen), f"{name} has a gradient or not, wrongly")
    for prefix, module in adapter.named_modules():
        own = {f"{prefix}.{name}" for name, _ in module.named_parameters()}
        require(not (own and own <= frozen and module.training), f"{prefix} is frozen but in train mode")


def check_checkpointing(model_name: str, plain: BackboneAdapter) -> None:
    """``with_cp``: the same loss and gradients, and something is recomputed."""
    adapter = TimmAdapter(model_name, with_cp=True)
    adapter.load_state_dict(plain.state_dict())
    operations, gradients = [], []
    calls = [0, 0]
    for index, one in enumerate((plain, adapter)):

        def count(*_: Any, index: int = index) -> None:
            calls[index] += 1

        still(one.train())
        handles = [m.register_forward_pre_hook(count) for m in one.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        one.zero_grad()
        torch.manual_seed(0)
        with flop_counter() as counter:
            torch.stack([m.square().mean() for m in one(random_image(SMALL, batch=2))]).sum().backward()
        operations.append(counter.get_total_flops())
        gradients.append({name: p.grad for name, p in one.named_parameters()})
        for handle in handles:
            handle.remove()
    # The counter does not see what the reentrant kind (DenseNet) recomputes, the hooks not what runs within a layer.
    require(operations[1] > operations[0] or calls[1] > calls[0], "nothing is recomputed")
    for name, expected in gradients[0].items():
        actual = gradients[1][name]
        if actual is None or expected is None:
            raise WrongError(f"{name} has no gradient")
        error = (actual - expected).norm() / expected.norm().clamp_min(1e-6)
        require(float(error) < 1e-2, f"the gradient of {name} differs by {float(error):.1e}")


def still(module: nn.Module) -> None:
    """Take the randomness and the batch statistics out of train mode, so that two runs can be compared."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            child.eval()


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = TOLERANCE) -> None:
    """Raise unless the maps agree, relative to the norm of each."""
    require(len(actual) == len(expected), f"{len(actual)} maps for {len(expected)}")
    for one, other in zip(actual, expected, strict=True):
        require(one.shape == other.shape, f"{tuple(one.shape)} against {tuple(other.shape)}")
        error = float((one - other).norm() / other.norm().clamp_min(1e-12))
        require(error < tolerance, f"differs by {error:.1e}")


def outcome(check: Callable[..., None], *arguments: Any) -> str:
    """``'ok'``, or why not, in one line."""
    try:
        check(*arguments)
    except WrongError as error:
        return str(error)
    except Exception as error:
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text}"[:300]
    return "ok"
