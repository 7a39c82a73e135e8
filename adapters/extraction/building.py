"""The model of an extraction from what a user names: a timm model, an adapter, an mmdet or mmseg config."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters.base import BackboneAdapter
from adapters.extraction.extractor import Extractor
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.preprocessing import Preprocessing
from adapters.extraction.vectors import check_vectors
from adapters.factory import TimmAdapter
from adapters.weights.source import Source

#: The checkpoint that stands for random weights.
RANDOM = "random"


def build_extractor(
    model: str | BackboneAdapter | Mapping[str, Any],
    options: ExtractionOptions,
    checkpoint: str | None = None,
    seed: int = 0,
    **preprocessing: Any,
) -> Extractor:
    """A model, loaded and ready for extraction.

    Args:
        model: a timm name, an adapter, or an adapter's config (``dict(model_name=..., out_indices=...)``).
        options: of the extraction.
        checkpoint: ``'timm'``, a path or URL, ``'random'``; None takes what the config says; for a name, ``'timm'``.
        seed: of random weights.
        preprocessing: fields of :class:`Preprocessing` that are not timm's.

    Raises:
        ValueError: the model cannot be built, or the weights do not fit.
    """
    if isinstance(model, BackboneAdapter):
        if options.needs_head and not model.keep_head:
            raise ValueError(
                f"outputs {', '.join(map(repr, options.vectors))} need layers that a built adapter no longer has: give "
                "the model's name, and the weights as checkpoint=..., or build the adapter with keep_head=True."
            )
        if checkpoint is not None:
            raise ValueError(f"checkpoint={checkpoint!r} is for a model given by name; this one is built already.")
        if options.needs_head:
            check_vectors(model, options.outputs)
        adapter, name = model, model.model_name
    else:
        config = {"model_name": model, "weights": "timm"} if isinstance(model, str) else dict(model)
        adapter, name = _build(config, options, checkpoint, seed), config["model_name"]
    _check_norm(adapter)
    fed = Preprocessing.of_model(adapter.trunk.pretrained_cfg, options.size, adapter.in_channels, **preprocessing)
    return Extractor(adapter, fed, options, name)


def _build(config: dict[str, Any], options: ExtractionOptions, checkpoint: str | None, seed: int) -> BackboneAdapter:
    if checkpoint is not None:
        config.pop("weights", None)
        init_cfg = config.pop("init_cfg", None) or {}
        if checkpoint == RANDOM:
            config["weights"] = None
        elif "prefix" in init_cfg or "img_size" in init_cfg:
            config["init_cfg"] = {**init_cfg, "checkpoint": checkpoint}
        else:
            config["weights"] = checkpoint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = build_with_head(config, options.outputs) if options.needs_head else TimmAdapter(**config)
    if adapter.weights is None and checkpoint != RANDOM:
        raise ValueError(
            f"the config names no weights for {config['model_name']}: give --checkpoint FILE, --checkpoint timm for "
            f"the hub's weights of the model, or --checkpoint {RANDOM} for random ones."
        )
    if isinstance(adapter.weights, Source):
        adapter.init_weights()
    return adapter


def build_with_head(config: Mapping[str, Any], outputs: Collection[str]) -> BackboneAdapter:
    """Build the adapter of a timm model, at random, with all that its vectors take.

    Args:
        config: arguments of :func:`adapters.TimmAdapter`.
        outputs: those that are wanted; with ``'top5'`` the classifier stays, and the checkpoint has to hold it.

    Raises:
        ValueError: as :func:`adapters.TimmAdapter` and :func:`~adapters.extraction.vectors.check_vectors`.
    """
    if config.get("stage_norm"):
        raise ValueError(
            "outputs other than 'pyramid' come from timm's classification model, which has no norms after its "
            "stages: ask for the pyramid alone, or build the model with stage_norm=False."
        )
    adapter = TimmAdapter(**{**config, "keep_head": True})
    check_vectors(adapter, outputs)
    if "top5" not in outputs:
        adapter.trunk.reset_classifier(0)
    return adapter


def _check_norm(adapter: BackboneAdapter) -> None:
    """Check that a norm of the maps that was asked for is there.

    Raises:
        ValueError: the model has none, and its maps would be as they are without.
    """
    norms = (getattr(adapter.trunk, name, None) for name in ("norm", "fc_norm"))
    if adapter.out_norm and all(norm is None or isinstance(norm, nn.Identity) for norm in norms):
        raise ValueError(f"out_norm=True, but {adapter.model_name} has no final norm: leave out --out-norm (out_norm).")


def read_config(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The backbone of an mmdet or mmseg config, and how its images are normalised.

    Returns:
        The adapter's config, and fields of :class:`Preprocessing`.

    Raises:
        ValueError: there is no such config, or its backbone is no adapter.
        ModuleNotFoundError: mmengine is not installed.
    """
    from adapters.registry import MODELS, require_mmengine

    require_mmengine("--config")
    from mmengine.config import Config

    if not Path(path).is_file():
        raise ValueError(f"there is no config {path!r} (from {Path.cwd()}).")
    cfg = Config.fromfile(path)
    backbone = dict((cfg.get("model") or {}).get("backbone") or {})
    kind = str(backbone.pop("type", None)).rpartition(".")[2]
    known = MODELS.get(kind) if kind in MODELS.module_dict else None
    if known is None or not getattr(known, "__module__", "").startswith("adapters.") or "model_name" not in backbone:
        raise ValueError(
            f"the backbone of {path}, {kind}, is no adapter; this reads configs whose backbone is a TimmAdapter or "
            "of one of its families."
        )
    backbone = Config(backbone).to_dict()
    return backbone, _normalisation(dict(cfg.model.get("data_preprocessor") or {}))


def _normalisation(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    if mean is None or std is None:
        return {}
    # mmcv loads blue first, and pixels are 0..255 there; bands other than RGB come in the file's order.
    fields = {"mean": tuple(value / 255 for value in mean), "std": tuple(value / 255 for value in std)}
    return {**fields, "bgr": len(mean) == 3 and not preprocessor.get("bgr_to_rgb", False)}
