"""The options of a test besides its metrics: predictions, painted images, test-time augmentation.

The options are mmdet's and mmseg's own: ``--out``, ``--show-dir`` and ``--tta`` of their test scripts.
"""

import copy
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
from mmengine.config import Config, ConfigDict
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner

from adapters.openmmlab.config_tree import Node, type_name
from adapters.registry import register_hook

#: Endings of the file of an mmdet config's predictions.
PICKLES = (".pkl", ".pickle")

#: Metrics of mmseg that write label maps.
WRITE_LABEL_MAPS = ("IoUMetric", "CityscapesMetric")

#: Entries that merging needs of every view of an image.
_VIEW_KEYS = ("flip", "flip_direction")


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of a test.

    Attributes:
        out: file of the predictions of an mmdet config, a pickle, or folder of the label maps of an mmseg config.
        show_dir: folder for painted images.
        tta: merge the predictions of several views of each image.
    """

    out: str | None = None
    show_dir: str | None = None
    tta: bool = False


@register_hook
class PaintingHook(Hook):
    """A hook that paints the predictions of a test into images, beside the truth where there is one.

    Args:
        out_dir: folder of the painted images, which keep their names.
        score_thr: the least score of a box that is painted.
        backend_args: of mmengine's file backend, where images are not local files.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3, backend_args: dict[str, Any] | None = None) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr
        self.backend_args = backend_args
        self._painted: set[Path] = set()

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,  # noqa: ARG002, mmengine passes it by name
        data_batch: Any = None,  # noqa: ARG002
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Paint the images of a batch.

        Raises:
            ValueError: an image is not one of three channels that can be painted on.
        """
        options = {"pred_score_thr": self.score_thr} if runner.cfg.get("default_scope") == "mmdet" else {}
        for sample in outputs or ():
            path = Path(sample.img_path)
            image = mmcv.imfrombytes(get(str(path), backend_args=self.backend_args))
            if image is None:
                raise ValueError(f"--show-dir: {path} is no image that can be painted on; leave the option out.")
            runner.visualizer.add_datasample(
                path.name, mmcv.bgr2rgb(image), data_sample=sample, out_file=str(self._target(path)), **options
            )

    def _target(self, path: Path) -> Path:
        """Return the file for an image: its name, and of its folders as many as it takes to tell it from others."""
        for depth in range(1, len(path.parts)):
            target = self.out_dir.joinpath(*path.parts[-depth:])
            if target not in self._painted:
                break
        self._painted.add(target)
        return target


def set_outputs(cfg: Config, options: EvaluationOptions) -> list[str]:
    """Have a test write what its options ask for; return notes.

    Args:
        cfg: changed in place.
        options: of which ``tta`` is for :func:`augment_tests`.

    Raises:
        ValueError: as :func:`write_predictions` and :func:`write_images`.
    """
    notes = write_predictions(cfg, options.out) if options.out else []
    return notes + (write_images(cfg, options.show_dir) if options.show_dir else [])


def write_images(cfg: Config, folder: str) -> list[str]:
    """Have a test paint its predictions; return notes.

    Args:
        cfg: changed in place.
        folder: for the images; made where it does not exist.

    Raises:
        ValueError: it is a file.
    """
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"--show-dir {folder} is a file; name a folder for the painted images.")
    configured = cfg.get("default_hooks", {}).get("visualization") or {}
    options = {key: configured[key] for key in ("score_thr", "backend_args") if configured.get(key) is not None}
    hook = dict(type="PaintingHook", out_dir=str(path), **options)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()), hook]
    return [f"painted images: {path}"]


def write_predictions(cfg: Config, out: str) -> list[str]:
    """Have a test write its predictions: a pickle for mmdet, a folder of label maps for mmseg; return notes.

    Args:
        cfg: changed in place.
        out: the file, or the folder.

    Raises:
        ValueError: it has another ending, is a folder in the place of a file or the other way round, or no metric of
            the config writes label maps.
    """
    path = Path(out).resolve()
    if cfg.default_scope == "mmdet":
        if path.suffix not in PICKLES or path.is_dir():
            raise ValueError(f"--out {out}: the predictions of an mmdet config are a file, ending in .pkl or .pickle.")
        _add_metric(cfg, dict(type="DumpDetResults", out_file_path=str(path)))
        return [f"predictions: {path}"]
    if path.suffix in PICKLES or (path.exists() and not path.is_dir()):
        raise ValueError(f"--out {out}: the predictions of an mmseg config are label maps, so name a folder.")
    metrics = [metric for metric in _metrics(cfg) if type_name(metric) in WRITE_LABEL_MAPS]
    if not metrics:
        found = ", ".join(map(type_name, _metrics(cfg))) or "no metric"
        raise ValueError(
            f"--out {out}: label maps are written by {' or '.join(WRITE_LABEL_MAPS)}, and test_evaluator has {found}."
        )
    metrics[0].output_dir = str(path)
    if type_name(metrics[0]) == "CityscapesMetric":
        metrics[0].keep_results = True
    return [f"label maps: {path}"]


def augment_tests(cfg: Config) -> list[str]:
    """Have a test merge the predictions of several views of each image; return notes.

    The config says how (``tta_model``, ``tta_pipeline``); where it does not, an image and its mirror image are merged,
    as mmdet's own script has it.

    Args:
        cfg: changed in place.

    Raises:
        ValueError: the test measures masks, which mmdet does not merge, or the pipeline packs nothing at its end.
    """
    notes = []
    if cfg.default_scope == "mmdet" and (found := _masks(cfg)):
        raise ValueError(f"--tta: mmdet merges boxes only, and {found}. Test without --tta.")
    if "tta_model" not in cfg:
        if cfg.default_scope == "mmdet":
            merging = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
            cfg.tta_model = dict(type="DetTTAModel", tta_cfg=merging)
        else:
            cfg.tta_model = dict(type="SegTTAModel")
        notes.append(f"the config has no tta_model: {cfg.tta_model.type} merges the predictions")
    for dataset in _innermost(cfg.test_dataloader.dataset):
        if "tta_pipeline" in cfg:
            dataset["pipeline"] = copy.deepcopy(cfg.tta_pipeline)
        else:
            dataset["pipeline"] = _with_mirror_image(dataset["pipeline"])
    if "tta_pipeline" not in cfg:
        notes.append("the config has no tta_pipeline: each image is tested as it is, and mirrored")
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    return notes


def _with_mirror_image(pipeline: Sequence[Node]) -> list[Node]:
    """Return a test pipeline that packs an image and its mirror image, in this order: the truth is the first one's."""
    *loading, packing = copy.deepcopy(list(pipeline))
    if not type_name(packing).startswith("Pack"):
        raise ValueError(
            f"--tta: the test pipeline ends in {type_name(packing)}, so that no views can be made of its images; "
            "give the config a tta_pipeline."
        )
    if "meta_keys" in packing:
        packing["meta_keys"] = tuple(dict.fromkeys((*packing["meta_keys"], *_VIEW_KEYS)))
    flips = [dict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)]
    return [*loading, dict(type="TestTimeAug", transforms=[flips, [packing]])]


def _innermost(dataset: Node) -> Iterator[Node]:
    """Datasets below wrappers such as RepeatDataset and ConcatDataset."""
    inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets")
    if inner is None:
        yield dataset
    for part in inner or ():
        yield from _innermost(part)


def _metrics(cfg: Config) -> list[Any]:
    """Return the metrics of a test, of which a config names one, several, or an evaluator that has some."""
    evaluator = cfg.get("test_evaluator") or []
    if isinstance(evaluator, MutableMapping):
        evaluator = evaluator.get("metrics", [evaluator])
    return [evaluator] if isinstance(evaluator, MutableMapping) else list(evaluator)


def _add_metric(cfg: Config, metric: Node) -> None:
    evaluator = cfg.get("test_evaluator")
    if isinstance(evaluator, MutableMapping) and "metrics" in evaluator:
        evaluator["metrics"] = [*_metrics(cfg), metric]
    else:
        cfg.test_evaluator = [*_metrics(cfg), metric]


def _masks(cfg: Config) -> str:
    """Say what of a config predicts or measures masks; empty if nothing does."""
    for metric in _metrics(cfg):
        kinds = metric.get("metric", ())
        if "Panoptic" in type_name(metric) or "segm" in ([kinds] if isinstance(kinds, str) else kinds):
            return f"test_evaluator's {type_name(metric)} measures masks"
    for part in (cfg.model, cfg.model.get("roi_head") or {}):
        if part.get("mask_head"):
            return f"{type_name(part)} predicts masks, with its mask_head"
    return ""
