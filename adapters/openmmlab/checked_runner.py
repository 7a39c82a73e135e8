"""mmengine's Runner, whose checkpoints are read without running them and loaded as they were checked."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, load_state_dict

from adapters.openmmlab.peft_folders import settle_for
from adapters.openmmlab.whole_model import read_model, read_run

#: Settings of the optimisers that keep different states for each parameter.
_KINDS = frozenset({"betas", "momentum", "alpha", "lr_decay", "rho"})


class CheckedRunner(Runner):
    """mmengine's ``Runner``, for checkpoints that ``model_checkpoint`` has checked and told of.

    Attributes:
        left_out: names of the checkpoint's tensors that are not to be loaded, though they fit.
    """

    left_out: frozenset[str] = frozenset()

    def load_checkpoint(self, filename: str, map_location: str | Callable[..., Any] = "cpu") -> dict[str, Any]:
        """Load a checkpoint, and return what the file holds.

        Args:
            filename: a path or a URL.
            map_location: where the state of a resumed run is read to; the model's tensors are copied to the model.

        Raises:
            ValueError: the file cannot be read, or its optimiser is not the run's.
        """
        checkpoint = read_run(filename, map_location) if self._resume else read_model(filename)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if not self._resume:
            settle_for(model, checkpoint)
        for name in self.left_out & set(checkpoint["state_dict"]):
            del checkpoint["state_dict"][name]
        if self._resume and "optimizer" in checkpoint:
            _check_optimizer(checkpoint["optimizer"], self.optim_wrapper.state_dict(), filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_state_dict(model, checkpoint["state_dict"], logger="silent")  # told before the run
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint


def _check_optimizer(saved: Mapping[str, Any], own: Mapping[str, Any], name: str) -> None:
    """Compare the groups of a saved optimiser with those of a run's, each with the number of its parameters.

    Raises:
        ValueError: they differ, so that torch would refuse it or fail at the first step.
    """
    if "param_groups" not in saved or "param_groups" not in own:
        return  # several optimisers
    sizes = [[len(group["params"]) for group in one["param_groups"]] for one in (saved, own)]
    kinds = [sorted({key for group in one["param_groups"] for key in group} & _KINDS) for one in (saved, own)]
    if sizes[0] == sizes[1] and kinds[0] == kinds[1]:
        return
    if sizes[0] != sizes[1]:
        differ = f"{len(sizes[0])} groups of {sum(sizes[0])} parameters, and here {len(sizes[1])} of {sum(sizes[1])}"
    else:
        differ = f"the settings {', '.join(kinds[0])}, and here {', '.join(kinds[1]) or 'none of them'}"
    raise ValueError(
        f"{name} cannot be resumed: its optimiser has {differ}. Go on with the optimiser, paramwise_cfg and "
        f"frozen_stages of its run, or start from its weights alone with `--cfg-options load_from={name}`."
    )
