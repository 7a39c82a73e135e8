"""Small models and the checkpoints that the tests of weights make of them."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from zoo import TOKENS, randomise

import adapters

StateDict = dict[str, Tensor]

#: Local and global attention, and a stage without the latter.
TWINS = {"depths": [2, 2, 1, 2], "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4], "mlp_ratios": [4, 4, 4, 4]}
SVT = "twins_svt_small"
PCPVT = "twins_pcpvt_small"
VIT = "vit_small_patch16_224"


def twins(model_name: str = SVT, seed: int = 3, **arguments: Any) -> nn.Module:
    """A small timm Twins, classifier and all, with every parameter randomised."""
    return timm_model(model_name, {**TWINS, **arguments}, seed)


def timm_model(model_name: str, trunk: dict[str, Any], seed: int = 3, **arguments: Any) -> nn.Module:
    """timm's model itself, as its own training code would save it."""
    torch.manual_seed(seed)
    return randomise(timm.create_model(model_name, **trunk, **arguments), seed).eval()


def mmseg_model(model_name: str, **options: Any) -> nn.Module:
    """Build mmseg's own small model, every parameter randomised."""
    from mmseg.models import backbones

    sizes = {
        **{key: TWINS[key] for key in ("depths", "embed_dims", "num_heads", "mlp_ratios")},
        "sr_ratios": [8, 4, 2, 1],
        "qkv_bias": True,
        "norm_after_stage": True,
        "drop_path_rate": 0.0,
        **options,
    }
    if model_name == SVT:
        sizes["windiow_sizes"] = [7, 7, 7, 7]
    torch.manual_seed(1)
    build = backbones.SVT if model_name == SVT else backbones.PCPVT
    return randomise(build(**sizes), seed=5).eval()


def vit(**arguments: Any) -> nn.Module:
    """A small timm ViT."""
    return timm_model(VIT, {**TOKENS, **arguments})


def save(contents: Any, path: Path) -> str:
    """Save with torch and give the name as a user would."""
    torch.save(contents, path)
    return str(path)


def load_twins(weights: str | None, model_name: str = SVT, **options: Any) -> adapters.BackboneAdapter:
    """A small Twins adapter with these weights, in eval mode."""
    trunk = {**TWINS, **options.pop("trunk", {})}
    return adapters.create_adapter(model_name, weights=weights, trunk=trunk, **options).eval()


def with_norms(state: StateDict, name: str = "norm_list", seed: int = 7) -> StateDict:
    """Add the norms that a dense model has after its stages."""
    generator = torch.Generator().manual_seed(seed)
    norms = {
        f"{name}.{stage}.{kind}": torch.randn(channels, generator=generator) * 0.1 + (kind == "weight")
        for stage, channels in enumerate(TWINS["embed_dims"])
        for kind in ("weight", "bias")
    }
    return {**state, **norms}


def below(state: StateDict, prefix: str) -> StateDict:
    """The same tensors with a prefix before each name."""
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def assert_holds(adapter: nn.Module, state: StateDict) -> None:
    """Every tensor of the adapter's trunk is bit for bit the one of ``state``, and there are some."""
    trunk = adapter.trunk.state_dict()
    assert len(trunk) > 20
    different = [key for key, tensor in trunk.items() if not torch.equal(tensor, state[key])]
    assert not different
