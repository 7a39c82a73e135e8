"""The sides of a comparison: the adapter, and models that compute the same without this package."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.factory import TimmAdapter
from adapters.families.convit import ConViTAdapter
from adapters.families.swinv2_cr import SwinV2CrAdapter
from adapters.families.vision_transformer import VisionTransformerAdapter
from adapters.weights.formats import ADAPTERS, MMSEG
from lab.benchmark.cases import ADAPTER, Case
from lab.benchmark.masked_swinv2_cr import attend_no_pads
from lab.randomise import randomise
from lab.timm_models import copy_weights, set_convit_grid

SEED = 0

State = dict[str, Tensor]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        module: holds the parameters.
        maps: image ``(B, 3, H, W)`` -> the maps ``(B, C, h, w)`` that both sides have.
        to_timm: the module's names of tensors (parameters or their gradients) to timm's.
    """

    module: nn.Module
    maps: Callable[[Tensor], Sequence[Tensor]]
    to_timm: Callable[[Mapping[str, Tensor]], State] = dict


def build(kind: str, case: Case) -> Side:
    """Build one side; both have the same weights, whatever process builds them.

    Args:
        kind: a key of :data:`PEERS`.
        case: the adapter's options as the caller wants them.
    """
    torch.manual_seed(SEED)
    adapter = TimmAdapter(case.model_name, **case.options)
    randomise(adapter, SEED, fan_in_share=0.5)
    return PEERS[kind](adapter, case)


def of_adapter(adapter: BackboneAdapter, case: Case) -> Side:  # noqa: ARG001, all builders are called alike
    return Side(adapter, adapter, ADAPTERS.read)


def of_timm(adapter: BackboneAdapter, case: Case) -> Side:
    """Build timm's model as a careful user does: ConViT for that image, SwinV2-CR with its pretrained windows."""
    arguments: dict[str, Any] = {}
    if isinstance(adapter, ConViTAdapter):
        if case.size[0] != case.size[1]:
            raise ValueError(f"timm's ConViT takes its grid for a square one, so {case.size} has no peer in timm.")
        arguments["img_size"] = case.size
    elif isinstance(adapter, SwinV2CrAdapter):
        arguments.update(img_size=case.size, window_size=adapter.trunk._ref_window_sizes[0])
    elif isinstance(adapter, VisionTransformerAdapter):
        arguments["dynamic_img_size"] = True
    return _timm_side(adapter, case, arguments)


def of_timm_img_size(adapter: BackboneAdapter, case: Case) -> Side:
    """Build timm's model with the image's size alone, as its documentation suggests: SwinV2-CR's windows then grow."""
    return _timm_side(adapter, case, {"img_size": case.size})


def of_dense_convit(adapter: BackboneAdapter, case: Case) -> Side:
    """Build timm's ConViT with the ``N x N`` table of the true (dx, dy) of an ``H x W`` grid."""
    side = _timm_side(adapter, case, {"img_size": case.size})
    grid: Any = side.module.patch_embed.grid_size
    set_convit_grid(side.module, grid)
    return side


def of_masked_swinv2_cr(adapter: BackboneAdapter, case: Case) -> Side:
    """Build timm's model with the pretrained windows; grids are padded before they are rolled, no pad is attended."""
    side = of_timm(adapter, case)
    attend_no_pads(side.module)
    return side


def of_mmseg(adapter: BackboneAdapter, case: Case) -> Side:  # noqa: ARG001
    """Build mmseg's own SVT or PCPVT."""
    from mmseg.models.backbones import PCPVT, SVT

    trunk = adapter.trunk
    state = ADAPTERS.read(adapter.state_dict())
    local = [[block.attn for block in blocks if hasattr(block.attn, "ws")] for blocks in trunk.blocks]
    arguments: dict[str, Any] = {
        "embed_dims": [blocks[0].norm1.weight.numel() for blocks in trunk.blocks],
        "num_heads": [blocks[0].attn.num_heads for blocks in trunk.blocks],
        "mlp_ratios": [blocks[0].mlp.fc1.out_features // blocks[0].mlp.fc1.in_features for blocks in trunk.blocks],
        "depths": [len(blocks) for blocks in trunk.blocks],
        "sr_ratios": [blocks[-1].attn.sr_ratio for blocks in trunk.blocks],
        "out_indices": adapter.out_indices,
        "qkv_bias": True,
        "drop_path_rate": 0.0,
        "norm_after_stage": "norm_list.0.weight" in state,
    }
    if any(local):
        arguments["windiow_sizes"] = [attns[0].ws for attns in local]
    model = (SVT if any(local) else PCPVT)(**arguments)
    converted, left = MMSEG.write(state)
    assert not left, f"mmseg has no place for {sorted(left)}"
    problems = model.load_state_dict(converted, strict=False)
    unused = {key for key in problems.missing_keys if not key.startswith("norm1.")}  # built, and never called
    assert not unused, f"mmseg has more than timm: {sorted(unused)}"
    assert not problems.unexpected_keys, f"mmseg has no {problems.unexpected_keys}"
    return Side(model, model, MMSEG.read)


PEERS: dict[str, Callable[[BackboneAdapter, Case], Side]] = {
    ADAPTER: of_adapter,
    "timm": of_timm,
    "timm img_size": of_timm_img_size,
    "dense": of_dense_convit,
    "masked": of_masked_swinv2_cr,
    "mmseg": of_mmseg,
}


def _timm_side(adapter: BackboneAdapter, case: Case, arguments: Mapping[str, Any]) -> Side:
    model = timm.create_model(case.model_name, pretrained=False, **dict(case.options.get("trunk") or {}), **arguments)
    indices, norm = list(adapter.out_indices), adapter.out_norm
    copy_weights(model, adapter.trunk.state_dict())
    return Side(
        model,
        lambda image: model.forward_intermediates(
            image, indices=indices, norm=norm, stop_early=True, intermediates_only=True
        ),
    )
