"""The measurement of whole models: its configs, the comparison of predictions, and its page."""

import numpy as np
from lab.heads.cases import CASES, linear, retinanet
from lab.heads.predictions import compare_detections
from lab.heads.report import render, totals


def detections() -> dict[str, np.ndarray]:
    boxes = np.float32([[0, 0, 100, 100], [50, 50, 150, 160], [0, 0, 0, 0]])
    return {"bboxes": boxes, "boxes": boxes, "scores": np.float32([0.9, 0.8, 0.1]), "labels": np.array([0, 1, 1])}


def test_detections_are_matched() -> None:
    expected, found = detections(), detections()
    found = {name: values[[1, 0, 2]] for name, values in found.items()}
    found["scores"] = found["scores"] + np.float32(5e-4)
    assert compare_detections(found, expected) == []
    for name, change in (("labels", 1), ("scores", 0.002), ("boxes", 1.0)):
        other = {**found, name: found[name] + np.asarray(change, found[name].dtype)}
        assert "no detection like number 0" in compare_detections(other, expected)[0]
    assert compare_detections({**found, "scores": found["scores"][:2]}, expected) == ["2 detections, not 3"]
    expected["masks"] = np.zeros((3, 9, 9), bool)
    assert "of mask 0 differ" in compare_detections({**found, "masks": ~expected["masks"]}, expected)[0]


def test_the_cases_are_those_of_the_targets() -> None:
    assert len(CASES) == 42 + 9
    assert retinanet("RoPE ViT").model.neck.in_channels == [128] * 4
    assert linear("ResNet").model.neck.in_channels == [256]


def test_the_page() -> None:
    rows = {
        "RetinaNet on ResNet": {"file": "ok", "difference": "1.0e-06", "predictions": "ok"},
        "DINO on ResNet": {"file": "ok", "difference": "1.0e-06", "predictions": "at 9 x 9: 3 detections, not 2"},
        "FCOS on ResNet": {"ended": "no answer"},
    }
    assert totals(rows) == (1, 0)
    page = render(rows)
    assert "yes, 1.0e-06" in page
    assert "- **DINO on ResNet**: at 9 x 9: 3 detections, not 2" in page
    assert "- **FCOS on ResNet**: no answer" in page
