"""Measuring which detectors and segmentors export whole, and whether what the files give is what mmdet and mmseg predict."""
