"""Running detectors and segmentors of OpenMMLab: configs, precision, checkpoints and layer decay. Needs mmengine."""

from adapters.openmmlab.operators import serve_operators

serve_operators()
