#!/usr/bin/env python
"""Draw the feature maps of two models side by side (or of one, or more): a sheet per image, and a gallery.

    python tools/visualize_features.py photos --backbone twins_svt_small resnet50 --out work_dirs/looking
    python tools/visualize_features.py photos --backbone resnet50 resnet50 --checkpoint timm mine.pth --out DIR

The features are those of tools/extract_features.py, kept in OUT/model0, OUT/model1; what is there is not made again.
"""

import sys

from adapters.commands.errors import one_line_errors
from adapters.commands.visualize import visualize_features

if __name__ == "__main__":
    with one_line_errors():
        sys.exit(visualize_features(description=__doc__))
