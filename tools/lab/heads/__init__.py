"""Measuring which detectors and segmentors export whole, and whether their files predict what the models do."""
