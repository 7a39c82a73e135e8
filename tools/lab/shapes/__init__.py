"""A seeded dataset for detection, instance and semantic segmentation that is drawn, not downloaded.

Shapes of six classes over crops of the photographs that scikit-image ships.
``tools/make_shapes.py`` writes it.
"""

from lab.shapes.outlines import CLASSES
from lab.shapes.writing import ShapesSettings, make_dataset

__all__ = ["CLASSES", "ShapesSettings", "make_dataset"]
