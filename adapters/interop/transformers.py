"""An adapter as a backbone of Hugging Face's transformers, built by its heads from a config.

Importing this file makes ``timm_adapter`` known to ``AutoConfig``, ``AutoBackbone`` and ``AutoModel``, so that DETR,
Mask2Former, UPerNet and every other head with a ``backbone_config`` builds it, saves it and loads it.
"""

import contextlib
import difflib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from adapters.base import BackboneAdapter
from adapters.factory import TimmAdapter
from adapters.interop.strides import check_strides
from adapters.options import AdapterOptions
from adapters.trunk.norm_acts import Activations

#: What a config of an adapter has beside the fields of any config of transformers.
OWN_FIELDS = ("model_name", "options", "out_indices", "strides")


class TimmAdapterConfig(BackboneConfigMixin, PreTrainedConfig):
    """The config of an adapter in transformers.

    A stage of transformers is a stage of the model, ``stage1`` to ``stage4``, or a block; with a pyramid among the
    options it is a level of the pyramid, ``stride4`` to ``stride32``, and all of them come out.

    Attributes:
        model_name: a timm model, ``'twins_svt_small'``.
        options: further arguments of :class:`adapters.TimmAdapter`, such as ``dict(frozen_stages=1)``.
        out_indices (list[int] | None): stages or blocks that come out; the adapter's choice by default. With a pyramid,
            those that go into it are named by ``options=dict(out_indices=...)``.
        strides: the strides that the head takes. A model that gives others is refused when it is built.

    Raises:
        ValueError: an option stands beside ``options``, or a field is misspelt.
    """

    model_type = "timm_adapter"

    model_name: str = ""
    options: dict[str, Any] | None = None
    strides: list[int] | tuple[int, ...] | None = None
    #: Lets transformers know that a model may use a layer twice, as CoaT does; words have no part in it.
    tie_word_embeddings: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        out_indices = kwargs.pop("out_indices", None)
        self.stage_names: list[str] | None = kwargs.pop("stage_names", None)
        self._out_features = kwargs.pop("out_features", None)
        for key in kwargs:  # transformers takes any, without a word
            if key in AdapterOptions.__annotations__:
                raise ValueError(f"{key} is an option of the adapter: give it in options=dict({key}=...).")
            if near := difflib.get_close_matches(key, OWN_FIELDS, n=1, cutoff=0.8):
                raise ValueError(f"{key} is no field of TimmAdapterConfig: did you mean {near[0]}?")
        self._out_indices = None if out_indices is None else list(out_indices)
        if self._out_features is not None and self.stage_names is None:
            raise ValueError(f"out_features={self._out_features}: name the stages by out_indices=[...] instead.")
        super().__post_init__(**kwargs)


class TimmAdapterBackbone(BackboneMixin, PreTrainedModel):
    """An adapter with the interface of transformers' backbones; ``channels`` and ``feature_maps`` are its levels'.

    Built from a config it has random weights; :func:`load_weights` loads those that its options name, and
    ``from_pretrained`` what ``save_pretrained`` wrote. Gradient checkpointing is the adapter's own, ``with_cp``,
    whatever arguments transformers passes for its function.

    Args:
        config: its stages are written into it.

    Raises:
        ValueError: the adapter refuses an option; or it gives other strides than ``config.strides``.
    """

    config: TimmAdapterConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    has_attentions = False
    #: Parameters to freeze once from_pretrained has loaded them.
    _thawed: tuple[str, ...] = ()
    _lacks_data = False

    def __init__(self, config: TimmAdapterConfig) -> None:
        # from_pretrained builds models without data; an adapter computes tables of positions from its own.
        without_data = torch.empty(0).is_meta
        with torch.device("cpu") if without_data else contextlib.nullcontext():
            adapter = _build(config)
        super().__init__(config)
        self.adapter = adapter
        if without_data:
            self._lacks_data = True
            self._thawed = tuple(name for name, tensor in self.named_parameters() if not tensor.requires_grad)
        self._activations = Activations(adapter.trunk)
        self._tied_weights_keys = _find_shared(self)
        self.post_init()

    @property
    def channels(self) -> list[int]:
        """The channels of each map."""
        return [level.channels for level in self.adapter.levels]

    @property
    def gradient_checkpointing(self) -> bool:
        """The adapter's ``with_cp``; transformers sets this in every part of a model that has it."""
        return self.adapter.with_cp

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.adapter.with_cp = enable

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BackboneOutput:
        """Compute ``(B, C, ceil(H / stride), ceil(W / stride))`` of images ``(B, C, H, W)`` of any size.

        Raises:
            ValueError: hidden states or attentions are asked for.
        """
        if output_hidden_states or output_attentions:
            raise ValueError(
                "output_hidden_states and output_attentions are not to be had from an adapter: its maps are those of "
                "config.out_indices."
            )
        return BackboneOutput(feature_maps=self.adapter(pixel_values))

    def train(self, mode: bool = True) -> "TimmAdapterBackbone":
        """Switch mode; the first time after from_pretrained, which ends so, also freeze what it has thawed."""
        for name in self._thawed:
            self.get_parameter(name).requires_grad_(False)
        self._thawed, self._lacks_data = (), False
        super().train(mode)
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:  # noqa: ARG002, transformers passes each in turn
        """Keep the adapter's initialisation; put right what transformers and its heads undo of the adapter."""
        self._activations.restore()
        if self._lacks_data:
            self._lacks_data = False
            self._fill()

    def _fill(self) -> None:
        """Give the tensors that no checkpoint held, such as tables of positions, the values of a new adapter."""
        fresh = _build(self.config)
        values = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
        for name, tensor in [*self.adapter.named_parameters(), *self.adapter.named_buffers()]:
            if not getattr(tensor, "_is_hf_initialized", False) and name in values:
                tensor.copy_(values[name])


def _build(config: TimmAdapterConfig) -> BackboneAdapter:
    """Build the adapter of a config at random, and write its stages into the config."""
    options = dict(config.options or {})
    has_pyramid = options.get("pyramid") is not None
    if not has_pyramid:
        if "out_indices" in options:
            raise ValueError("options=dict(out_indices=...) is for a pyramid: give out_indices to the config itself.")
        options["out_indices"] = config.out_indices
    adapter = TimmAdapter(config.model_name, **options)
    if config.strides is not None:
        check_strides(adapter, config.strides, "This head")
    if has_pyramid:
        names = [f"stride{level.stride}" for level in adapter.levels]
        out_indices = list(range(len(names)))
        if config.out_indices not in (None, out_indices):
            raise ValueError(
                f"out_indices={config.out_indices}, but all {len(names)} levels of a pyramid come out: choose them by "
                "its out_strides, and the blocks that go into it by options=dict(out_indices=...)."
            )
    else:
        names = [f"stage{place}" for place in range(1, len(adapter.stage_levels) + 1)]
        out_indices = list(adapter.out_indices)
    config.stage_names = names
    config.set_output_features_output_indices(None, out_indices)
    return adapter


def _find_shared(module: nn.Module) -> dict[str, str]:
    """Map each further name of a parameter that has several to its first one."""
    first: dict[nn.Parameter, str] = {}
    names = [(name, first.setdefault(tensor, name)) for name, tensor in module.named_parameters(remove_duplicate=False)]
    return {name: source for name, source in names if name != source}


def load_weights(model: nn.Module) -> None:
    """Load the weights that the options of every adapter in a model name, with the report of each.

    Raises:
        ValueError: a checkpoint does not fit.
    """
    for module in model.modules():
        if isinstance(module, BackboneAdapter):
            module.init_weights()


AutoConfig.register(TimmAdapterConfig.model_type, TimmAdapterConfig)
AutoBackbone.register(TimmAdapterConfig, TimmAdapterBackbone)
AutoModel.register(TimmAdapterConfig, TimmAdapterBackbone)
