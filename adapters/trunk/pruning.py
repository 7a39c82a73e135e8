"""Removal of the parts of a trunk that have no share in its maps, for models without a family.

The families' trunks are pruned by timm's own method, in ``BackboneAdapter.adapt_trunk``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from timm.models.crossvit import CrossVit, MultiScaleBlock
from torch import Tensor, nn

from adapters.trunk.surgery import graft


@dataclass
class Removal:
    """Parts of a module that have no share in its outputs, by name.

    Attributes:
        modules: submodules that become an Identity.
        parameters: single parameters that become None.
        frozen: parameters that the forward pass touches all the same, without effect: they stay, and are frozen.
    """

    modules: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)

    def apply(self, module: nn.Module) -> None:
        """Change a module of the same structure as the one that this was found for, in place."""
        for name in self.modules:
            parent, attribute = _parent_of(module, name)
            setattr(parent, attribute, nn.Identity())
        for name in self.parameters:
            parent, attribute = _parent_of(module, name)
            setattr(parent, attribute, None)
        for name in self.frozen:
            module.get_parameter(name).requires_grad_(False)


def remove_unused(module: nn.Module, used: set[int], still_runs: Callable[[], bool]) -> Removal:
    """Take out of ``module`` the parameters that have no part in its outputs.

    A submodule none of whose parameters is used becomes an Identity, a single parameter None. Where the forward pass
    touches one all the same, without its having an effect, it stays and is frozen.

    Args:
        module: changed in place.
        used: what :func:`parameters_behind` found.
        still_runs: says whether the forward pass works after a removal.

    Returns:
        What was done, to do it to others.
    """
    done = Removal()
    for name, child in _unused_submodules(module, used):
        parent, attribute = _parent_of(module, name)
        setattr(parent, attribute, nn.Identity())
        if still_runs():
            done.modules.append(name)
            continue
        setattr(parent, attribute, child)
        child.requires_grad_(False)
        done.frozen += [f"{name}.{own}" for own, _ in child.named_parameters()]
    for name, parameter in list(module.named_parameters()):
        if id(parameter) in used or name in done.frozen:
            continue
        parent, attribute = _parent_of(module, name)
        setattr(parent, attribute, None)
        if still_runs():
            done.parameters.append(name)
            continue
        setattr(parent, attribute, parameter.requires_grad_(False))
        done.frozen.append(name)
    return done


def _unused_submodules(module: nn.Module, used: set[int]) -> list[tuple[str, nn.Module]]:
    """The largest submodules with parameters of which none is used."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer, _ in found)
        parameters = [id(parameter) for parameter in child.parameters()]
        if name and not inside and parameters and used.isdisjoint(parameters):
            found.append((name, child))
    return found


def _parent_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute


# CrossViT: its first branch has the finest patches, and the other serves it as far as it reaches them. The branches
# exchange class tokens at the end of each block. So the second branch's own share of the exchange in the last block but
# one, and all of it in the last, have no part in the first branch's patches.


class LastButOneBlock(MultiScaleBlock):
    """A block of which only the first branch hears of the other."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Run two branches ``(B, 1 + N_i, C_i)``; the second leaves as it was before the exchange."""
        first, second = (block(branch) for block, branch in zip(self.blocks, x, strict=True))
        exchanged = self.fusion[0](torch.cat((self.projs[0](first[:, :1]), second[:, 1:]), dim=1))
        return [torch.cat((self.revert_projs[0](exchanged[:, :1]), first[:, 1:]), dim=1), second]


class LastBlock(MultiScaleBlock):
    """A block without exchange."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Run the first of two branches ``(B, 1 + N_i, C_i)``; the second leaves as it came."""
        return [self.blocks[0](x[0]), x[1]]


def finish_in_first_branch(trunk: nn.Module) -> None:
    """Leave out of the last blocks, after pruning, what does not reach the patches of the first branch."""
    if isinstance(trunk, CrossVit):
        graft(trunk.blocks[-1], LastBlock)
        if len(trunk.blocks) > 1:
            graft(trunk.blocks[-2], LastButOneBlock)
