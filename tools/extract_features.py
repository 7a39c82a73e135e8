#!/usr/bin/env python
"""Extract the feature maps of images: one safetensors file each, and a Parquet manifest.

    python tools/extract_features.py photos --backbone twins_svt_small --out work_dirs/features
    python tools/extract_features.py coco.json --backbone vit_small_patch16_224 --pyramid TapPyramid --out DIR
    python tools/extract_features.py 'a/*.jpg' --config CONFIG --checkpoint FILE --out DIR --visualize

A run that was stopped goes on when the same command is given again. Exits with 1 if an image failed.
"""

import sys

from adapters.commands.errors import one_line_errors
from adapters.commands.extract import extract_features

if __name__ == "__main__":
    with one_line_errors():
        sys.exit(extract_features(description=__doc__))
