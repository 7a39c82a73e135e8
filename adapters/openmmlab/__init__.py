"""Running detectors and segmentors of OpenMMLab: configs, precision, checkpoints and layer decay. Needs mmengine."""
