"""Patch timm's builder to learn how it loads a model: its filter of old names, its classifier, its tag's weights."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import timm
import torch
from timm.models import _builder
from torch import Tensor, nn

from adapters.trunk.dilation import without_output_stride
from adapters.trunk.hosted_models import create_timm_model
from adapters.weights.download import one_process_at_a_time
from adapters.weights.file import StateDict, first_line


@dataclass(frozen=True)
class TimmCheckpointInfo:
    """timm's knowledge of the checkpoints of one model.

    Attributes:
        model: the full model with its classifier, on the ``meta`` device unless weights are to be loaded into it.
        loading: the arguments that timm would give to ``load_pretrained`` for it.
    """

    model: nn.Module
    loading: Mapping[str, Any]

    @property
    def has_filter(self) -> bool:
        """True if timm rewrites checkpoints of this model before it loads them."""
        return self.loading["filter_fn"] is not None

    def filter(self, state: StateDict, img_size: tuple[int, int] | None = None) -> StateDict:
        """Rewrite a checkpoint as timm does: old names, other layouts, other sizes.

        Args:
            state: the checkpoint.
            img_size: ``(H, W)`` for which its position embeddings are, if that is known.
        """
        if img_size is not None:
            self.model.pretrained_model_args = {"img_size": img_size}  # type: ignore[assignment]
        checkpoint_filter: Callable[..., StateDict] = self.loading["filter_fn"]
        takes_model = len(inspect.signature(checkpoint_filter).parameters) > 1
        filtered = checkpoint_filter(dict(state), self.model) if takes_model else checkpoint_filter(dict(state))
        return {key: value for key, value in filtered.items() if isinstance(value, Tensor)}

    @property
    def channels(self) -> int:
        """Channels of the images that the weights of the model's tag are for."""
        return (self.loading["pretrained_cfg"].get("input_size") or (3,))[0]

    @property
    def classifier(self) -> tuple[str, ...]:
        """Prefixes of the names in the model's classifier."""
        return _prefixes(self.loading["pretrained_cfg"].get("classifier"))

    @property
    def first_convs(self) -> tuple[str, ...]:
        """Names of the weights that take the image's channels."""
        traits = _builder.get_model_traits(self.model)
        names = traits.get("first_conv", self.loading["pretrained_cfg"].get("first_conv"))
        return tuple(f"{prefix}weight" for prefix in _prefixes(names))

    @property
    def derived_buffers(self) -> frozenset[str]:
        """Last parts of the names of buffers that the model computes from its size, and does not save."""
        saved = self.model.state_dict()
        return frozenset(name.rpartition(".")[2] for name, _ in self.model.named_buffers() if name not in saved)


def catch_timm_loading(
    model_name: str, in_channels: int, arguments: Mapping[str, Any], device: str = "meta"
) -> TimmCheckpointInfo:
    """Build the full model and catch what timm would load it with, without reading or fetching anything.

    Args:
        model_name: with or without the tag of its weights.
        in_channels: channels of its images.
        arguments: further ones for ``timm.create_model``.
        device: where to build it.
    """
    calls: list[dict[str, Any]] = []
    catch = mock.patch.object(_builder, "load_pretrained", lambda _, **loading: calls.append(loading))
    with catch, torch.device(device):
        model = create_timm_model(model_name, pretrained=True, in_chans=in_channels, **without_output_stride(arguments))
    assert len(calls) == 1, f"timm loaded {model_name} {len(calls)} times"
    return TimmCheckpointInfo(model, calls[0])


def pretrained_state(model_name: str, in_channels: int, arguments: Mapping[str, Any]) -> StateDict:
    """Return the weights of the model's tag, through timm's own resolver and cache; what they do not set is NaN.

    Raises:
        ValueError: timm has none, or cannot get or load them.
    """
    info = catch_timm_loading(model_name, in_channels, arguments, device="cpu")
    with torch.no_grad():
        for tensor in info.model.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    try:
        with one_process_at_a_time(f"timm-{model_name}"):
            timm.models.load_pretrained(info.model, **info.loading)
    except Exception as error:  # the hub's client has many exceptions of its own
        raise ValueError(
            f"weights='timm': timm could not load the weights of {model_name} ({type(error).__name__}: "
            f"{first_line(error)}). Give a local file instead, weights='path/to/file.safetensors', or start at random "
            "with weights=None."
        ) from error
    return info.model.state_dict()


def _prefixes(names: Any) -> tuple[str, ...]:
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names or ()))
