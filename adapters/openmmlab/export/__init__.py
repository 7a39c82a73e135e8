"""Whole detectors and segmentors as graphs that end at their heads' raw outputs. Needs mmdet or mmseg."""
