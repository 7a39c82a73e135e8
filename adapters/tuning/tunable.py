"""A module around a trunk, whose checkpoints are the same with low-rank factors and without."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from adapters.tuning.low_rank import LowRank, tune
from adapters.tuning.options import parse


class Tunable(nn.Module):
    """A module with a trunk that may have low-rank factors.

    Attributes:
        trunk: timm's model.
        low_rank: its factors; None where it has none.
    """

    trunk: Any
    low_rank: LowRank | None = None

    def tune_trunk(self, peft: Mapping[str, Any], stem: Sequence[str], model_name: str) -> None:
        """Put factors into the trunk and freeze the rest of it.

        Args:
            peft: the options.
            stem: names, in this module, of the parameters that come before the stages or blocks.
            model_name: the backbone, for messages.

        Raises:
            ValueError: an option that is not allowed, or a target that matches no layer.
            ModuleNotFoundError: the library peft is not installed.
        """
        own = [name.removeprefix("trunk.") for name in stem]
        self.low_rank = tune(self.trunk, parse(peft), own, model_name)

    def loadable_tensors(self) -> dict[str, Tensor]:
        """Return the tensors, of any shape, that a checkpoint sets: those of the trunk under timm's names."""
        state = self.state_dict()
        return state if self.low_rank is None else self.low_rank.plain_names(state, "trunk.")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # A checkpoint of a model without factors is one of a model whose factors change nothing.
        if self.low_rank is not None:
            error = self.low_rank.adopt(self.trunk, state_dict, prefix)
            arguments[-1].extend([error] if error else [])
        super()._load_from_state_dict(state_dict, prefix, *arguments)
