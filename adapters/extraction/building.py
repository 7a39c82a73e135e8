"""The model of an extraction from what a user names: a timm model, an adapter, an mmdet or mmseg config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapters.base import BackboneAdapter
from adapters.extraction.extractor import Extractor
from adapters.extraction.head import create_with_head
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.preprocessing import Preprocessing
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
        if options.needs_head:
            raise ValueError(
                "outputs 'embedding' and 'top5' need layers that a built adapter no longer has: give the model's name, "
                "and the weights as checkpoint=..."
            )
        if checkpoint is not None:
            raise ValueError(f"checkpoint={checkpoint!r} is for a model given by name; this one is built already.")
        adapter, name = model, model.model_name
    else:
        config = {"model_name": model, "weights": "timm"} if isinstance(model, str) else dict(model)
        adapter, name = _build(config, options, checkpoint, seed), config["model_name"]
    fed = Preprocessing.of_model(adapter.trunk.pretrained_cfg, options.size, **preprocessing)
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
        if options.needs_head:
            adapter = create_with_head(classifier="top5" in options.outputs, **config)
        else:
            adapter = TimmAdapter(**config)
    if adapter.weights is None and checkpoint != RANDOM:
        raise ValueError(
            f"the config names no weights for {config['model_name']}: give --checkpoint FILE, --checkpoint timm for "
            f"the hub's weights of the model, or --checkpoint {RANDOM} for random ones."
        )
    if isinstance(adapter.weights, Source):
        adapter.init_weights()
    return adapter


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
    return backbone, _normalisation(dict(cfg.model.get("data_preprocessor") or {}), path)


def _normalisation(preprocessor: Mapping[str, Any], path: str) -> dict[str, Any]:
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    if mean is None or std is None:
        return {}
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"data_preprocessor of {path} normalises {len(mean)} channels; images are read as RGB.")
    # mmcv loads blue first, and pixels are 0..255 there.
    fields = {"mean": tuple(value / 255 for value in mean), "std": tuple(value / 255 for value in std)}
    return {**fields, "bgr": not preprocessor.get("bgr_to_rgb", False)}
