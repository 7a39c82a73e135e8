"""The checks of one model: each passes in silence or raises, and the reason goes into the table."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from adapters import BackboneAdapter, Level, TimmAdapter
from adapters.describe.flops import flop_counter
from adapters.trunk.probing import probe
from lab.compare import relative_error
from lab.randomise import randomise

M = TypeVar("M", bound=nn.Module)
Size = tuple[int, int]

SIZES: tuple[Size, ...] = ((256, 320), (250, 333), (97, 65), (800, 1344))
SMALL: Size = (97, 65)
TOLERANCE = 1e-4
#: Noise on the weights: in models of full depth, activations bear no more.
NOISE = 0.02


class WrongError(Exception):
    """A map, gradient or number is not what it must be."""


def require(condition: bool, reason: str) -> None:
    """Raise :class:`WrongError` unless a condition holds."""
    if not condition:
        raise WrongError(reason)


def random_image(size: Size, batch: int = 1, channels: int = 3) -> Tensor:
    """Draw an image ``(B, C, H, W)``, the same at each call."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def check_maps(maps: Sequence[Tensor], levels: Sequence[Level], image: Tensor) -> None:
    """Require maps ``(B, C, ceil(H / stride), ceil(W / stride))`` of the image's dtype, one for each level."""
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
    """Require contiguous, finite maps at one size, in eval mode."""
    image = random_image(size)
    with torch.no_grad():
        maps = adapter.eval()(image)
    check_maps(maps, adapter.levels, image)
    require(all(m.is_contiguous() for m in maps), "a map is not contiguous")
    require(all(bool(torch.isfinite(m).all()) for m in maps), "a map is not finite")


def check_training_size(adapter: BackboneAdapter, size: Size) -> None:
    """Require the maps' shapes in train mode, on tensors without data where the model allows it."""
    shape = (2, 3, *size)
    try:
        maps = probe(adapter, lambda one, image: one(image), shape, training=True)
    except DataDependentOutputException:
        with torch.no_grad():
            maps = adapter.train()(random_image(size, batch=2))
    check_maps(maps, adapter.levels, torch.empty(shape, device="meta"))


def check_gradients(adapter: BackboneAdapter) -> None:
    """Require a finite gradient of every parameter after a step at a small odd size in train mode."""
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
    """Require the same maps, twice, of ``torch.compile`` (backend eager: tracing and guards, no code generation)."""
    adapter.eval()
    torch._dynamo.reset()
    compiled = torch.compile(adapter, backend="eager", dynamic=False)
    image = random_image(SMALL)
    with torch.no_grad():
        for _ in range(2):
            require_close(compiled(image), adapter(image))


def check_frozen(model_name: str) -> None:
    """Require of ``frozen_stages=1`` that stem and first stage alone get no gradient and stay in eval mode."""
    adapter = randomise(TimmAdapter(model_name, frozen_stages=1), scale=NOISE).train()
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


def check_checkpointing(model_name: str, keeping: BackboneAdapter) -> None:
    """Require of ``with_cp`` the gradients of the adapter that keeps its activations, and that layers run again."""
    adapter = TimmAdapter(model_name, with_cp=True)
    adapter.load_state_dict(keeping.state_dict())
    both = [disable_randomness(one.train()) for one in (keeping, adapter)]
    calls = [_calls(one) for one in both]
    gradients = [{name: p.grad for name, p in one.named_parameters()} for one in both]
    # The hooks do not see what runs within a layer, the counter not what the reentrant kind (DenseNet) recomputes.
    require(calls[1] > calls[0] or _operations(adapter) > _operations(keeping), "nothing is recomputed")
    for name, expected in gradients[0].items():
        actual = gradients[1][name]
        if actual is None or expected is None:
            raise WrongError(f"{name} has no gradient")
        error = (actual - expected).norm() / expected.norm().clamp_min(1e-6)  # many gradients are nearly zero
        require(float(error) < 1e-2, f"the gradient of {name} differs by {float(error):.1e}")


def _step(module: nn.Module) -> None:
    """Run backward from a loss that is the same at each call."""
    module.zero_grad()
    torch.manual_seed(0)
    torch.stack([m.square().mean() for m in module(random_image(SMALL, batch=2))]).sum().backward()


def _calls(module: nn.Module) -> int:
    """Count the linear layers and convolutions that run in a step."""
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
    """Count the multiplications and additions of a step."""
    with flop_counter() as counter:
        _step(module)
    return counter.get_total_flops()


def disable_randomness(module: M) -> M:
    """Put dropout and batch norm into eval mode, in place, so that two runs can be compared; return the module."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            child.eval()
    return module


def require_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = TOLERANCE) -> None:
    """Raise unless two sets of maps ``(B, C, H, W)`` agree, relative to the norm of each."""
    require(len(actual) == len(expected), f"{len(actual)} maps for {len(expected)}")
    for one, other in zip(actual, expected, strict=True):
        require(one.shape == other.shape, f"{tuple(one.shape)} against {tuple(other.shape)}")
        error = relative_error(one, other)
        require(error < tolerance, f"differs by {error:.1e}")


def outcome(check: Callable[..., None], *arguments: Any) -> str:
    """Run a check; return ``'ok'``, or why it failed, in one line."""
    try:
        check(*arguments)
    except WrongError as error:
        return str(error)
    except Exception as error:
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text}"[:300]
    return "ok"
