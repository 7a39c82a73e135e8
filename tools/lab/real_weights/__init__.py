"""Measurements with weights that were trained: an EfficientNet-Lite0 that the package index holds."""
