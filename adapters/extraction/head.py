"""Adapters that keep the whole timm model, so that one pass gives the maps and what the model's own head makes of them.

An adapter removes what its maps do not need. Here nothing is removed: the last norm, the pooling and the classifier
stay, their weights are loaded as strictly as all others, and the tokens or maps that come out of the last block go
through timm's own ``norm`` and ``forward_head``. That equals timm's ``forward_features`` and ``forward_head`` on the
image padded to what the trunk divides; at the model's native size there are no pads.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.factory import family_of
from adapters.families.convit import ConViTAdapter
from adapters.families.generic import GenericAdapter
from adapters.families.swinv2_cr import SwinV2CrAdapter
from adapters.families.twins import TwinsAdapter
from adapters.trunk.probing import Removal


def create_with_head(model_name: str, classifier: bool, **options: Any) -> BackboneAdapter:
    """Build the adapter of a timm model, at random, with all that timm's model has.

    Args:
        model_name: any timm name, with or without a weights tag.
        classifier: keep the classifier, which the checkpoint then has to hold.
        options: those of :func:`adapters.TimmAdapter`.

    Raises:
        ValueError: as :func:`adapters.TimmAdapter`; or the model has no classifier, or norms that no classifier knows.
    """
    family = family_of(model_name)
    adapter = with_head(family)(model_name, **options)
    if isinstance(adapter, TwinsAdapter) and adapter.stage_norms is not None:
        raise ValueError(
            "outputs 'embedding' and 'top5' come from timm's classification model, which has no norms after its "
            "stages: ask for the pyramid alone, or build the model with stage_norm=False."
        )
    if not hasattr(adapter.trunk, "forward_head"):
        raise ValueError(f"timm's {model_name} has no forward_head: ask for the pyramid alone.")
    if classifier and not getattr(adapter.trunk, "num_classes", 0):
        raise ValueError(f"timm's {model_name} has no classifier: leave 'top5' out of the outputs.")
    if isinstance(adapter, GenericAdapter):
        _check_pass(adapter)
    if not classifier:
        adapter.trunk.reset_classifier(0)
    return adapter


def _check_pass(adapter: Any) -> None:
    """Compare the pass with timm's own, once, for models of which that is not known by construction.

    Raises:
        ValueError: they differ: the adapter pads or cuts images in a way that timm's classifier does not.
    """
    mode = adapter.training
    adapter.eval()
    image = torch.rand(1, *adapter.trunk.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapter(image)
        expected = adapter.trunk.forward_head(adapter.trunk.forward_features(image), pre_logits=True)
        try:
            found = adapter.trunk.forward_head(adapter.final, pre_logits=True)
            same = torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        except (RuntimeError, TypeError, IndexError, AttributeError):  # of final features of another form
            same = False
    adapter.train(mode)
    if not same:
        raise ValueError(
            f"outputs 'embedding' and 'top5' of {adapter.model_name} cannot come from the pass that gives its maps, "
            "which runs the model in another way than timm's classifier does: ask for the pyramid alone."
        )


_WITH_HEAD: dict[type[BackboneAdapter], Any] = {}


def with_head(family: type[BackboneAdapter]) -> Any:
    """The class of :func:`_with_head`, one for each family."""
    if family not in _WITH_HEAD:
        _WITH_HEAD[family] = _with_head(family)
    return _WITH_HEAD[family]


def _with_head(family: type[BackboneAdapter]) -> Any:
    """The subclass of a family that removes nothing and remembers the final features of its last pass."""

    # mypy knows no base class that is a value.
    class WithHead(family):  # type: ignore[misc, valid-type]
        final: Tensor

        def build_trunk(self, drop_path_rate: float) -> nn.Module:
            trunk = super().build_trunk(drop_path_rate)
            trunk.prune_intermediate_layers = keep_everything
            return trunk

        def forward_trunk(self, image: Tensor) -> Sequence[Tensor]:
            if issubclass(family, GenericAdapter):
                return super().forward_trunk(image)
            if issubclass(family, SwinV2CrAdapter):
                return self._through_timm(self.trunk, image)
            caught: list[Tensor] = []
            handle = last_block(self).register_forward_hook(lambda *call: caught.append(call[-1]))
            try:
                maps = super().forward_trunk(image)
            finally:
                handle.remove()
            self.final = self.trunk.norm(caught[-1])
            return maps

        def _build_key(self) -> Hashable:
            """Of a GenericAdapter, which remembers what it has found for models of one build."""
            return super()._build_key(), "with head"

        def _cut_dead_ends(self) -> None:
            """Of a GenericAdapter: what reaches no map may reach the classifier."""

        def _remove_unused(self) -> Removal:
            """Of a GenericAdapter: nothing is removed."""
            return Removal()

        def _all_cells(self, image: Tensor) -> Sequence[Tensor]:
            """Of a GenericAdapter, which takes the maps from here."""
            trunk = self.trunk
            if self.sized_trunk is not None:
                trunk = self.sized_trunk.at(trunk, (image.shape[-2], image.shape[-1]))
            return self._through_timm(trunk, image)

        def _through_timm(self, trunk: Any, image: Tensor) -> Sequence[Tensor]:
            self.final, maps = trunk.forward_intermediates(image, indices=list(self.out_indices), norm=self.out_norm)
            return maps

        def __reduce__(self) -> Any:
            # The class has no name that pickle could look up.
            return _blank, (family,), self.__dict__

    WithHead.__name__ = WithHead.__qualname__ = f"{family.__name__}WithHead"
    return WithHead


def _blank(family: type[BackboneAdapter]) -> BackboneAdapter:
    """What pickle and copy fill with an adapter's state."""
    cls = with_head(family)
    blank: BackboneAdapter = cls.__new__(cls)
    return blank


def last_block(adapter: BackboneAdapter) -> nn.Module:
    """The module whose output timm's final norm takes."""
    trunk = adapter.trunk
    if not isinstance(adapter, TwinsAdapter):
        assert isinstance(adapter, ConViTAdapter) or hasattr(trunk, "blocks")
        return trunk.blocks[-1]
    # The position encoding comes after the first block of a stage.
    return trunk.blocks[-1][-1] if len(trunk.blocks[-1]) > 1 else trunk.pos_block[-1]


def keep_everything(*_: Any, **__: Any) -> list[int]:
    """In the place of timm's ``prune_intermediate_layers``."""
    return []
