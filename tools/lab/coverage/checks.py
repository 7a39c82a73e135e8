"""What is measured for one model: each check passes in silence or raises, and the reason goes into the table."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from adapters import BackboneAdapter, Level, TimmAdapter
from adapters.describe.flops import flop_counter
from adapters.trunk.probing import probe
from lab.coverage.randomise import randomise

M = TypeVar("M", bound=nn.Module)
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
    shape = (2, 3, *size)
    try:
        maps = probe(adapter, lambda one, image: one(image), shape, training=True)
    except DataDependentOutputException:
        with torch.no_grad():
            maps = adapter.train()(random_image(size, batch=2))
    check_maps(maps, adapter.levels, torch.empty(shape, device="meta"))


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
    both = [still(one.train()) for one in (plain, adapter)]
    calls = [_calls(one) for one in both]
    gradients = [{name: p.grad for name, p in one.named_parameters()} for one in both]
    # The hooks do not see what runs within a layer, the counter not what the reentrant kind (DenseNet) recomputes.
    require(calls[1] > calls[0] or _operations(adapter) > _operations(plain), "nothing is recomputed")
    for name, expected in gradients[0].items():
        actual = gradients[1][name]
        if actual is None or expected is None:
            raise WrongError(f"{name} has no gradient")
        error = (actual - expected).norm() / expected.norm().clamp_min(1e-6)
        require(float(error) < 1e-2, f"the gradient of {name} differs by {float(error):.1e}")


def _step(module: nn.Module) -> None:
    """Backward from a loss that is the same at each call."""
    module.zero_grad()
    torch.manual_seed(0)
    torch.stack([m.square().mean() for m in module(random_image(SMALL, batch=2))]).sum().backward()


def _calls(module: nn.Module) -> int:
    """How many linear layers and convolutions run in a step."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    _step(module)
    for handle in handles:
        handle.remove()
    return calls


def _operations(module: nn.Module) -> int:
    """Multiplications and additions of a step."""
    with flop_counter() as counter:
        _step(module)
    return counter.get_total_flops()


def still(module: M) -> M:
    """Take the randomness and the batch statistics out of train mode, so that two runs can be compared."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            child.eval()
    return module


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = TOLERANCE) -> None:
    """Raise unless the maps agree, relative to the norm of each."""
    require(len(actual) == len(expected), f"{len(actual)} maps for {len(expected)}")
    for one, other in zip(actual, expected, strict=True):
        require(one.shape == other.shape, f"{tuple(one.shape)} against {tuple(other.shape)}")
        error = relative_error(one, other)
        require(error < tolerance, f"differs by {error:.1e}")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of what is expected."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-12))


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
