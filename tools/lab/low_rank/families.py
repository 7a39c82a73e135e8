"""Low-rank tuning of one model: which layers, which share trains, and that training and merging do what they say."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from adapters import BackboneAdapter, TimmAdapter
from adapters.trunk.build import build_without_data
from adapters.trunk.factor_names import is_factor
from adapters.tuning.options import MEANINGS
from adapters.weights.factors import settle_factors
from lab.compare import relative_error

#: The size of the training steps, the rank, and the learning rate.
SIZE, RANK, RATE = (97, 65), 8, 1e-3
NONE = "none"
#: The largest difference of merged maps, relative to their size.
TOLERANCE = 1e-5


def measure(model_name: str) -> Iterator[tuple[str, str]]:
    """Yield columns of a model's row and what stands there."""
    trunk = build_without_data(lambda: TimmAdapter(model_name)).trunk
    yield "parameters", str(sum(parameter.numel() for parameter in trunk.parameters()))
    for meaning in MEANINGS:
        yield meaning, count(model_name, meaning)
    torch.manual_seed(0)
    adapter = TimmAdapter(model_name, peft=dict(r=RANK, targets="all"))
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    yield "gradients", train(adapter)
    changed = {name for name, tensor in adapter.state_dict().items() if not torch.equal(tensor, before[name])}
    wrong = [name for name in changed if not is_factor(name)]
    yield "base", f"{len(wrong)} changed, such as {wrong[0]}" if wrong else "identical"
    error = merging_error(adapter, model_name)
    yield "merged", f"{error:.1e}"
    if error > TOLERANCE:  # timm's own rounding is larger in some, such as Gemma 4
        yield "merged float64", f"{merging_error(adapter, model_name, torch.float64):.1e}"
    yield "with_cp", train(TimmAdapter(model_name, peft=dict(r=RANK, targets="all"), with_cp=True), steps=1)


def count(model_name: str, meaning: str) -> str:
    """Count the layers that a meaning matches, and the share of the trunk that trains: ``'24 layers, 0.51%'``."""
    try:
        adapter = build_without_data(lambda: TimmAdapter(model_name, peft=dict(r=RANK, targets=meaning)))
    except ValueError as error:
        if "matches no layer" in str(error):
            return NONE
        raise
    assert adapter.low_rank is not None
    total = sum(parameter.numel() for parameter in adapter.trunk.parameters())
    trained = sum(parameter.numel() for parameter in adapter.trunk.parameters() if parameter.requires_grad)
    return f"{len(adapter.low_rank.layers)} layers, {100 * trained / total:.2f}%"


def train(adapter: BackboneAdapter, steps: int = 2) -> str:
    """Train an adapter for some steps; say whether every factor had a gradient in each."""
    adapter.train()
    learning = {name: parameter for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    optimiser = torch.optim.AdamW(learning.values(), lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        maps = adapter(image())
        torch.stack([feature_map.square().mean() for feature_map in maps]).sum().backward()
        without = [name for name, parameter in learning.items() if parameter.grad is None]
        if without:
            return f"{len(without)} of {len(learning)} without, such as {without[0]}"
        optimiser.step()
    return "all"


def merging_error(adapter: BackboneAdapter, model_name: str, dtype: torch.dtype = torch.float32) -> float:
    """Return the relative difference of a merged model's maps from the tuned one's, the largest of all maps."""
    tuned = copy.deepcopy(adapter).to(dtype).eval()
    merged, _ = settle_factors(tuned.state_dict(), merged=True)
    plain = TimmAdapter(model_name).to(dtype).eval()
    plain.load_state_dict(merged)
    with torch.no_grad():
        pairs = zip(plain(image().to(dtype)), tuned(image().to(dtype)), strict=True)
        return max(relative_error(one, other) for one, other in pairs)


def image() -> Tensor:
    """Draw two images ``(2, 3, H, W)``, the same at each call."""
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
