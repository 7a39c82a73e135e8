"""Whole detectors and segmentors on different classes of backbones, measured (``tools/benchmark_models.py``)."""
