"""The demonstration: a small model trained on drawn images, with pictures of its predictions (``tools/demo.py``)."""
