"""Adapters in the detectors and segmentors of other frameworks; each file needs its own framework, and is imported alone."""
