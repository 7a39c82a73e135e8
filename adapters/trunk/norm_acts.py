"""timm's batch norms with an activation inside, which converters to and from SyncBatchNorm would lose.

torch's, mmengine's and apex's converters make a norm of their own class for each batch norm, hand it the former one's
children, and never call them: an EfficientNet or a RegNet goes on without its activations. The converters end by
handing each child of the trunk back to it with ``add_module``; a trunk that has such norms puts them right there, and
once more whenever its mode is set, for parts that were converted alone.
"""

from collections.abc import Callable
from typing import Any

from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.trunk.surgery import graft, graft_methods

#: Classes that call their children themselves.
WHOLE = (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)


def keep_activations(trunk: nn.Module) -> None:
    """Have a timm model keep the activations of its batch norms whoever converts them; nothing else changes."""
    if any(isinstance(module, BatchNormAct2d) for module in trunk.modules()):
        graft_methods(trunk, _restoring)


def _restoring(cls: Any) -> dict[str, Callable[..., Any]]:
    def add_module(self: nn.Module, name: str, module: nn.Module | None) -> None:
        cls.add_module(self, name, module)
        if module is not None:
            restore_activations(module)

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        restore_activations(self)
        trained: nn.Module = cls.train(self, mode)
        return trained

    return {"add_module": add_module, "train": train}


class Activations:
    """The activations inside a trunk's batch norms, for those who replace the norms without their children.

    DETR in transformers does: each batch norm becomes one of its own with fixed statistics, and nothing else.
    """

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = [trunk]  # a list registers no child
        self._parts = {
            name: (module.drop, module.act)
            for name, module in trunk.named_modules()
            if isinstance(module, BatchNormAct2d)
        }

    def restore(self) -> None:
        """Give each norm that was replaced since its activation back."""
        for name, (drop, act) in self._parts.items():
            norm = self._trunk[0].get_submodule(name)
            if not norm._modules:
                norm.drop, norm.act = drop, act
                restore_activations(norm)


def restore_activations(module: nn.Module) -> None:
    """Turn converted norms below ``module`` that ignore the activation they hold into norms that apply it.

    Those of torch's ``SyncBatchNorm`` become timm's ``SyncBatchNormAct``, plain ones timm's ``BatchNormAct2d``, and
    those of another library get a forward pass that goes on to the children. Parameters and names stay.
    """
    for norm in module.modules():
        if not _is_stripped(norm):
            continue
        if isinstance(norm, nn.SyncBatchNorm):
            graft(norm, SyncBatchNormAct)
        elif isinstance(norm, _BatchNorm):
            norm.__class__ = BatchNormAct2d
        else:
            graft_methods(norm, _calling_children)


def _is_stripped(module: nn.Module) -> bool:
    holds_activation = {"drop", "act"} <= module._modules.keys() and "running_mean" in module._buffers
    return holds_activation and not isinstance(module, WHOLE) and not hasattr(module, "calls_children")


def _calling_children(cls: Any) -> dict[str, Callable[..., Any]]:
    def forward(self: Any, x: Tensor) -> Tensor:
        normalised: Tensor = self.act(self.drop(cls.forward(self, x)))
        return normalised

    return {"forward": forward, "calls_children": lambda _: True}
