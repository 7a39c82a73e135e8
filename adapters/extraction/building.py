"""The model of an extraction from what a user names: a timm model, an adapter, an mmdet or mmseg config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapters.base import BackboneAdapter
from adapters.extraction.extractor import Extractor
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.preprocessing import Preprocessing
from adapters.factory import TimmAdapter
from adapters.families.generic import GenericAdapter
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
                "outputs 'embedding' and 'top5' need layers that a built adapter no longer has: give the model's name, "
                "and the weights as checkpoint=..., or build the adapter with keep_head=True."
            )
        if checkpoint is not None:
            raise ValueError(f"checkpoint={checkpoint!r} is for a model given by name; this one is built already.")
        if options.needs_head:
            check_head(model, "top5" in options.outputs)
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
            adapter = build_with_head(config, classifier="top5" in options.outputs)
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


def build_with_head(config: Mapping[str, Any], classifier: bool) -> BackboneAdapter:
    """Build the adapter of a timm model, at random, with all that its embedding or classes take.

    Args:
        config: arguments of :func:`adapters.TimmAdapter`.
        classifier: keep the classifier, which the checkpoint then has to hold.

    Raises:
        ValueError: as :func:`adapters.TimmAdapter` and :func:`check_head`.
    """
    if config.get("stage_norm"):
        raise ValueError(
            "outputs 'embedding' and 'top5' come from timm's classification model, which has no norms after its "
            "stages: ask for the pyramid alone, or build the model with stage_norm=False."
        )
    adapter = TimmAdapter(**{**config, "keep_head": True})
    check_head(adapter, classifier)
    if not classifier:
        adapter.trunk.reset_classifier(0)
    return adapter


def check_head(adapter: BackboneAdapter, classifier: bool) -> None:
    """Check that an adapter built with ``keep_head=True`` can give timm's embedding, and its classes if asked for.

    Raises:
        ValueError: timm's model has no head or no classifier, or the adapter's pass is another than its classifier's.
    """
    name = adapter.model_name
    if not hasattr(adapter.trunk, "forward_head"):
        raise ValueError(f"timm's {name} has no forward_head: ask for the pyramid alone.")
    if classifier and not getattr(adapter.trunk, "num_classes", 0):
        raise ValueError(f"timm's {name} has no classifier: leave 'top5' out of the outputs.")
    # The families compute what timm computes by construction; of the others, one pass shows it.
    if isinstance(adapter, GenericAdapter) and not _equals_timm(adapter):
        raise ValueError(
            f"outputs 'embedding' and 'top5' of {name} cannot come from the pass that gives its maps, which runs the "
            "model in another way than timm's classifier does: ask for the pyramid alone."
        )


@torch.no_grad()
def _equals_timm(adapter: BackboneAdapter) -> bool:
    """Compare the embedding with timm's own, of an image of the model's native size."""
    mode = adapter.training
    adapter.eval()
    trunk = adapter.trunk
    device = next(trunk.parameters()).device
    image = torch.rand(1, *trunk.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0)).to(device)
    expected = trunk.forward_head(trunk.forward_features(image), pre_logits=True)
    _, final = adapter.forward_with_head(image)
    try:
        found = trunk.forward_head(final, pre_logits=True)
        return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    except (RuntimeError, TypeError, IndexError, AttributeError):  # of final features of another form
        return False
    finally:
        adapter.train(mode)


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
