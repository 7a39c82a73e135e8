"""Images of more or fewer than three channels in mmdet and mmseg: data preprocessors, and a loader.

mmdet's and mmseg's own preprocessors normalise one or three channels, and their loaders decode photographs.
"""

from adapters.openmmlab.channels.load_bands import LoadBandsFromFile
from adapters.openmmlab.channels.registered import MultiChannelDetDataPreprocessor, MultiChannelSegDataPreprocessor

__all__ = ["LoadBandsFromFile", "MultiChannelDetDataPreprocessor", "MultiChannelSegDataPreprocessor"]
